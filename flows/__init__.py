"""Prefect flows, and starting and following their deployments' runs by name."""

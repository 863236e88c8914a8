"""Prefect tasks: thin, one outside effect for a batch of children each, outcomes as values."""

"""A whole small world on one machine: Consul cluster, Nginx, Prefect, a parent VM."""

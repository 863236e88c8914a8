"""Scale an app in seconds by forking running VMs: the core, which knows neither Prefect nor Slack."""

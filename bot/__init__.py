"""
Slack: a sentence becomes a request, a run's progress becomes one message that is kept up to date.

What is asked and decided is on record (`forkyard.requests`) before Slack is acknowledged; what Slack shows is a pure
rendering of those rows and of Prefect's state, so after a restart everything goes on from there. Starts and follows
runs by their deployments' names and imports no flow code. Slack being away never stops a run.
"""

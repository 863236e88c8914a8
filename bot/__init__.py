"""
Slack: a sentence becomes a request, a run's progress becomes one message that is kept up to date.

Starts and follows runs by their deployments' names and imports no flow code. Nothing here yet.
"""

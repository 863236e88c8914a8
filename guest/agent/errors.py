"""What the agent raises on purpose."""


class AgentError(Exception):
    """Something could not be done or proved; the message says what, on which thing, and why."""


class PointFailed(AgentError):
    """An identity point could not be set, or a look afterwards did not find it set."""


class HookFailed(AgentError):
    """The app did not answer one of its hooks as it should."""


class ConfigError(AgentError):
    """agent.toml is not what the agent understands."""

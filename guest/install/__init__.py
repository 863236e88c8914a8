"""Install the guest agent into a parent VM that runs, or into the directory that its disk is made from."""

from guest.install.distribution import InstallError
from guest.install.installer import AppHooks, install_agent

__all__ = ["AppHooks", "InstallError", "install_agent"]

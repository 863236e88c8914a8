"""Which servers a balancer can take. Pure; names and addresses come from Consul, and so from inside guests."""

import re
from ipaddress import AddressValueError, IPv4Address

from forkyard.model import Server

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HIGHEST_PORT = 65535


def find_fault(server: Server) -> str:
    """Why the server cannot be written into a balancer's file; empty: it can."""
    if not _NAME.fullmatch(server.name):
        return "its name has other characters than letters, digits, dots and hyphens"
    if not 0 < server.port <= _HIGHEST_PORT:
        return f"its port is not between 1 and {_HIGHEST_PORT}"
    try:
        IPv4Address(server.address)
    except AddressValueError:
        return "its address is not IPv4"
    return ""

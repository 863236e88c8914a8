"""
Forms of text that a setting may have: what the kernel, Consul and a URL's reader will take.

Checked when forkyard.toml is read, because the first to stumble over a wrong one would be a run.
"""

import re
from ipaddress import IPv4Address
from typing import Annotated
from urllib.parse import urlsplit

from forkyard.toml_reader import Form

_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DATACENTER = re.compile(r"[A-Za-z0-9_-]+")


def is_url(text: str, *schemes: str) -> bool:
    """Whether it is a URL of one of these schemes that paths can be appended to."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and not set(text) & set(" ?#")
    return plain and parts.scheme in schemes and port != 0 and _HOST.fullmatch(parts.hostname or "") is not None


def is_address(text: str) -> bool:
    """Whether it is an IPv4 address."""
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


HttpUrl = Annotated[
    str,
    Form(lambda text: is_url(text, "http", "https"), 'an http or https URL is wanted, such as "http://127.0.0.1:8500"'),
]
VcenterUrl = Annotated[
    str,
    Form(
        lambda text: text == "" or is_url(text, "https"),
        'an https URL is wanted, such as "https://vcenter.example/sdk", or "" for none',
    ),
]
Addresses = Annotated[
    tuple[Annotated[str, Form(is_address, 'IPv4 addresses without a port are wanted, such as "10.77.0.11"')], ...],
    Form(bool, 'at least one address is wanted, such as ["10.77.0.11"]'),
]
DeviceName = Annotated[
    str,
    Form(
        lambda text: _DEVICE.fullmatch(text) is not None,
        "a network device's name is wanted: at most 15 letters, digits, dots, hyphens and underscores",
    ),
]
NamespaceName = Annotated[
    str,
    Form(
        lambda text: _NAMESPACE.fullmatch(text) is not None,
        "a network namespace's name is wanted: letters, digits, dots, hyphens and underscores, no path",
    ),
]
DatacenterName = Annotated[
    str,
    Form(
        lambda text: _DATACENTER.fullmatch(text) is not None,
        "a Consul datacenter's name is wanted: letters, digits, hyphens and underscores",
    ),
]

"""
Names that follow from what they belong to, so that a repeated call finds what the first one made.

Pure, but for `new_request_id`, which the edge (command line, bot, schedule) calls once per request.
"""

import re
import uuid

TOKEN_LENGTH = 6
"""Hexadecimal digits of the request's id in a child's name: short enough to read, unlikely enough to meet twice."""

SERVICE_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""A service is part of host names: a DNS label that leaves room for token and ordinal."""

PARENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A parent of QEMU's is a directory of that name: without a slash, and without a dot first, it is in its place."""
PARENT_NAME_RULE = "letters, digits, dots, hyphens and underscores, at most 64, a letter or digit first"

_FORKS = uuid.UUID("5d1f0a52-9a3e-4c0e-8d0c-3a0f6b1b7c44")


def new_request_id() -> str:
    """Make a request's id: a random UUID. Not pure; only the edge calls it."""
    return str(uuid.uuid4())


def make_token(request_id: str) -> str:
    """Take the digits of a request's id that its children carry in their names."""
    digits = re.sub(r"[^0-9a-f]", "", request_id.lower())
    if len(digits) < TOKEN_LENGTH:
        # Ids that others make (a Slack trigger, a test) need not be hexadecimal.
        digits = uuid.uuid5(_FORKS, request_id).hex
    return digits[:TOKEN_LENGTH]


def make_child_name(service: str, request_id: str, ordinal: int) -> str:
    """Name a request's child: the same three values give the same name."""
    return f"{service}-{make_token(request_id)}-{ordinal}"


def make_fork_id(request_id: str, name: str) -> str:
    """Make the id of a request's fork: a UUID, the same for the same request and name."""
    return str(uuid.uuid5(_FORKS, f"{request_id}/{name}"))

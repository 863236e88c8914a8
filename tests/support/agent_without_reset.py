"""`python -m tests.support.agent_without_reset CONFIG`: the guest agent, on a kernel that cannot reset connections."""

import socket
import sys
from dataclasses import replace

from guest.agent import sockets
from guest.agent.__main__ import main

_destroy = sockets.destroy


def destroy_nothing(connection: sockets.Connection) -> bool:
    """Ask this kernel for what it cannot do: the answer is the one of a kernel without CONFIG_INET_DIAG_DESTROY."""
    return _destroy(replace(connection, family=socket.AF_UNIX))


if __name__ == "__main__":
    sockets.destroy = destroy_nothing
    sys.exit(main())

"""
Become a program that takes a listening socket as systemd would hand it over.

    python -IS activate.py FD PROGRAM [ARGUMENT ...]

Standard library only and started by its path: it must cost no more than the interpreter's start.
"""

import os
import sys

FIRST_FD = 3  # where sd_listen_fds(3) says that sockets begin


def main() -> None:
    """Put the socket where the program looks for it, say so, become the program."""
    fd, program = int(sys.argv[1]), sys.argv[2:]
    # dup2 onto itself would leave the descriptor to be closed by exec.
    os.dup2(fd, FIRST_FD) if fd != FIRST_FD else os.set_inheritable(fd, True)  # noqa: FBT003 - positional only
    environment = dict(os.environ)  # noqa: TID251 - the protocol is two variables, beside those that are there
    environment.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execvpe(program[0], program, environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()

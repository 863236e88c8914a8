"""
Serve the small Slack: `python -m lab.slack PORT DIRECTORY`.

The tokens are made anew at each start and written to DIRECTORY, each in a file that only its owner reads:
`bot.token`, `app.token`, `signing.secret`. Port 0 takes a free one; the port is then in `port`.
"""

import os
import socket
import sys
from pathlib import Path

import uvicorn

from lab.slack.people import make_secret
from lab.slack.server import Server
from lab.slack.state import Workspace


def main() -> None:
    """Serve until ended by a signal."""
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    secrets = {"bot.token": "xoxb-lab-", "app.token": "xapp-lab-", "signing.secret": ""}
    made = {name: make_secret(prefix) for name, prefix in secrets.items()}
    workspace = Workspace(
        bot_token=made["bot.token"], app_token=made["app.token"], signing_secret=made["signing.secret"]
    )
    app = Server(workspace, host).make_app()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    listener.listen(128)
    for name, text in made.items():
        _write_secret(directory / name, text)
    # Last: who waits for this file finds all the others, and a socket that listens.
    (directory / "port").write_text(host.rpartition(":")[2])
    uvicorn.Server(config).run(sockets=[listener])


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()

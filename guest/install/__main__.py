"""`python -m guest.install`: run as root in the parent VM itself, or give another root directory."""

import argparse
import logging
import sys
from pathlib import Path

from guest.install.distribution import InstallError
from guest.install.installer import AppHooks, choose_channel, install_agent, start_now

log = logging.getLogger("guest.install")


def main(arguments: list[str] | None = None) -> int:
    """Install, and start what was installed when it is in the running system; 2 for what the person can mend."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    asked = _parse(arguments)
    channel = asked.channel or choose_channel(asked.root)
    try:
        install_agent(
            asked.root,
            consul=asked.consul,
            wheels=asked.wheels,
            app=AppHooks(asked.container, asked.port, asked.warm),
            interface=asked.interface,
            channel=channel,
            progress=log.info,
        )
        if asked.root == Path("/"):
            start_now(log.info)
            if channel == "guestinfo":
                log.info("Reboot this machine before it is frozen: until then %s keeps its address", asked.interface)
    except PermissionError as error:
        log.error("%s: not permitted. Run this as root.", error.filename)  # noqa: TRY400 - for a person
        return 2
    except InstallError as error:
        log.error("%s", error)  # noqa: TRY400 - for a person
        return 2
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m guest.install", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="system to install into (default: this one)")
    parser.add_argument("--consul", type=Path, help="Consul's program (default: the one installed there)")
    parser.add_argument("--wheels", type=Path, help="directory with the libraries' wheels, for a machine without index")
    parser.add_argument("--container", required=True, help="name of the app's container")
    parser.add_argument("--port", type=int, required=True, help="the app's port inside its container")
    parser.add_argument("--warm", default="", help="path that the app warms itself by, if it has one")
    parser.add_argument("--channel", help="how the host is heard: guestinfo under vSphere, virtio:NAME under QEMU")
    parser.add_argument("--interface", default="eth0", help="network device that gets the child's identity")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

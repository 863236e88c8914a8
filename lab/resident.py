"""The lab's `forkyard sync`: the command itself, as a daemon."""

import sys
from datetime import timedelta
from pathlib import Path

from forkyard.processes import end, spawn, tail
from forkyard.settings import Settings
from lab.daemons import read_ref, write_ref

STOP_TIMEOUT = timedelta(seconds=8)
"""It ends when its blocking queries return, which is after 3 s at the latest."""


def start_sync(settings: Settings, config: Path | None) -> bool:
    """Start it unless it runs; say whether it was started. *config*: the forkyard.toml to read, None: the usual one."""
    if not sync_trouble(settings):
        return False
    command = [str(Path(sys.executable).with_name("forkyard"))]
    options = ["--config", str(config.resolve())] if config else []
    home = _home(settings)
    home.mkdir(parents=True, exist_ok=True)
    write_ref(home / "sync.pid", spawn([*command, *options, "--verbose", "sync"], log=home / "sync.log"))
    return True


def sync_trouble(settings: Settings) -> str:
    """What is wrong with it; empty text when nothing is."""
    home = _home(settings)
    return "" if read_ref(home / "sync.pid") else f"forkyard sync does not run: {tail(home / 'sync.log', 2)}"


def stop_sync(settings: Settings) -> None:
    """End it; absent is success."""
    ref = read_ref(_home(settings) / "sync.pid")
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    (_home(settings) / "sync.pid").unlink(missing_ok=True)


def _home(settings: Settings) -> Path:
    return settings.run_dir / "lab"

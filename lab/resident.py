"""The lab's resident commands, `forkyard sync` and `forkyard bot`: the commands themselves, as daemons."""

import sys
from datetime import timedelta
from pathlib import Path

from forkyard.processes import end, tail
from forkyard.settings import Settings
from lab.daemons import read_ref, start_daemon

STOP_TIMEOUT = timedelta(seconds=8)
"""Both end when what they wait for returns, which is after 3 s at the latest."""

SYNC = ("sync",)
BOT = ("bot", "--lab")


def start_resident(settings: Settings, config: Path | None, words: tuple[str, ...]) -> bool:
    """Start it unless it runs; say whether it was started. *config*: the forkyard.toml to read, None: the usual one."""
    if not resident_trouble(settings, words):
        return False
    command = [str(Path(sys.executable).with_name("forkyard"))]
    options = ["--config", str(config.resolve())] if config else []
    home, name = _home(settings), words[0]
    home.mkdir(parents=True, exist_ok=True)
    start_daemon(home / f"{name}.pid", [*command, *options, "--verbose", *words], log=home / f"{name}.log")
    return True


def resident_trouble(settings: Settings, words: tuple[str, ...]) -> str:
    """What is wrong with it; empty text when nothing is."""
    home, name = _home(settings), words[0]
    running = read_ref(home / f"{name}.pid") is not None
    return "" if running else f"forkyard {name} does not run: {tail(home / f'{name}.log', 2)}"


def stop_resident(settings: Settings, words: tuple[str, ...]) -> None:
    """End it; absent is success."""
    pid = _home(settings) / f"{words[0]}.pid"
    ref = read_ref(pid)
    if ref is not None:
        end(ref, timeout=STOP_TIMEOUT)
    pid.unlink(missing_ok=True)


def _home(settings: Settings) -> Path:
    return settings.run_dir / "lab"

"""`forkyard demo`: type for the person what a person would type, then show what came of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.output import emit, say
from forkyard.errors import PermanentError
from forkyard.settings import load_settings
from lab.demo import CHILDREN, Demo, ask_as_player, draw_picture, render_page


def run_demo(config: Path | None, service: str, *, as_json: bool) -> int:
    """Start the lab, scale, ask like a player, show the page."""
    settings = load_settings(config)
    wanted = min(CHILDREN, settings.service(service).maximum)
    lab = _type(config, "lab", "up")
    shown = _type(config, "status", service)["services"][service]
    scaled: dict[str, Any] = {}
    # A fleet that somebody has made larger is not made smaller for a demo.
    if shown["serving"] < wanted:
        scaled = _type(config, "scale", service, "--to", str(wanted))
        shown = _type(config, "status", service)["services"][service]
    answers = ask_as_player(settings.nginx.url, wanted)
    demo = Demo(
        service=service,
        wanted=wanted,
        seconds=scaled.get("seconds"),
        children=shown["children"],
        answers=answers,
        lab=lab,
        run_url=scaled.get("run_url"),
        picture=draw_picture(settings, service),
    )
    if as_json:
        emit(shown | scaled | {"answers": dict(answers), "picture": str(demo.picture) if demo.picture else None})
    else:
        sys.stdout.write("\n" + render_page(demo))
    return 0


def _type(config: Path | None, *words: str) -> dict[str, Any]:
    """Run a command as a process of its own, its progress shown; return its JSON."""
    say(f"$ forkyard {' '.join(words)}")
    chosen = ["--config", str(config)] if config else []
    argv = [sys.executable, "-m", "cli.main", *chosen, *words, "--json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = process.communicate()
    except KeyboardInterrupt:
        # The command has the same Ctrl-C and is making the fleet consistent: let it.
        process.communicate()
        raise
    if process.returncode != 0:
        text = f"forkyard {' '.join(words)} ended with code {process.returncode}; what it said is above."
        raise PermanentError(text)
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer

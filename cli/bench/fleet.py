"""Benches of the whole way, with the real command on the real lab: scale-4, scale-8, memory, lab-up-again."""

import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event

from cli.bench import Context, Json, Run
from cli.bench.parts import SERVICE, Player, command, require_room, run_command, scale_to
from forkyard.errors import PermanentError
from forkyard.phases import observe_fleet
from forkyard.world import open_world

IDLE = timedelta(seconds=60)
PATIENCE = timedelta(minutes=3)


def measure_scale_4(context: Context) -> Sequence[Run]:
    """0 to 4, several times."""
    return [_scale_from_zero(context, 4) for _ in range(context.runs)]


def measure_scale_8(context: Context) -> Sequence[Run]:
    """0 to 8, several times."""
    return [_scale_from_zero(context, 8) for _ in range(context.runs)]


def measure_memory(context: Context) -> Sequence[Run]:
    """PSS of four children that have been idle for a minute, over their RAM."""
    runs = []
    for _ in range(context.runs):
        scale_to(context, 0)
        scale_to(context, 4)
        context.say(f"idle for {IDLE.total_seconds():g} s")
        Event().wait(IDLE.total_seconds())
        ram = context.settings.service(SERVICE).memory_mib << 20
        with open_world(context.settings, SERVICE) as world:
            sizes = {child.vm.name: child.vm.pss_bytes for child in observe_fleet(world).children}
        known = [size for size in sizes.values() if size is not None]
        if not known:
            text = "the hypervisor does not tell the memory of its children"
            raise PermanentError(text)
        runs.append(Run(sum(known) / len(known) / ram, {"pss_bytes": sizes, "ram_bytes": ram}))
    scale_to(context, 0)
    return runs


def measure_lab_up_again(context: Context) -> Sequence[Run]:
    """`forkyard lab up` while the frozen parent is on disk and nothing else is there."""
    run_command(context, "lab", "up")
    runs = []
    for _ in range(context.runs):
        run_command(context, "lab", "down")
        started = time.monotonic()
        run_command(context, "lab", "up")
        runs.append(Run(time.monotonic() - started, {}))
    return runs


def _scale_from_zero(context: Context, target: int) -> Run:
    require_room(context, target)
    scale_to(context, 0)
    # From the command on: the player's clock starts with the process, its start-up included.
    with Player(context.settings.nginx.url) as player:
        process = subprocess.Popen(
            command(context, "scale", SERVICE, "--to", str(target), "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        try:
            seconds = player.wait_for(target, PATIENCE)
        finally:
            _, said = process.communicate(timeout=PATIENCE.total_seconds())
        whole = time.monotonic() - player.started
    if process.returncode != 0:
        text = f"scale to {target} ended with code {process.returncode}: {said.strip()[-600:]}"
        raise PermanentError(text)
    details: Json = {"first_answer": dict(sorted(player.met.items())), "command_seconds": round(whole, 3)}
    scale_to(context, 0)
    return Run(seconds, details)

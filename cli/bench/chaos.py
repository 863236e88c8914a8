"""
The bench `kill-reap`: the flow's process is killed in the middle of forking, at a different moment each time.

After `forkyard reap` and the same command again the fleet must be exactly as asked.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event

from cli.bench import Context, Run
from cli.bench.parts import SERVICE, command, find_excess, require_room, run_command, scale_to
from forkyard.errors import ForkyardError, PermanentError
from forkyard.waiting import wait_for
from forkyard.world import World, open_world

TARGET = 4
_SPAN = 8.0
"""Seconds over which the moments of killing are spread: from the lease to about the last child."""


def measure_kill_reap(context: Context) -> Sequence[Run]:
    """Kill, reap, the same again; a run's value is 1 when anything is not as asked."""
    require_room(context, TARGET)
    return [_kill_once(context, _SPAN * number / context.runs) for number in range(context.runs)]


def _kill_once(context: Context, moment: float) -> Run:
    scale_to(context, 0)
    with subprocess.Popen(
        command(context, "scale", SERVICE, "--to", str(TARGET), "--json"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
    ) as shell:
        try:
            killed = _kill_flow(context, moment)
        finally:
            # The command only follows the run; it would wait for a run that is never heard of again.
            shell.send_signal(signal.SIGKILL)
    reaped = run_command(context, "reap")
    try:
        scale_to(context, TARGET)
        excess = find_excess(context, TARGET)
    except ForkyardError as error:
        excess = [str(error)]
    return Run(
        float(bool(excess)), {"killed_after": round(moment, 2), "pid": killed, "reaped": reaped, "excess": excess}
    )


def _kill_flow(context: Context, moment: float) -> int:
    with open_world(context.settings, SERVICE) as world:
        pid = wait_for(lambda: _flow_process(world), what="a flow that holds the lease", timeout=timedelta(seconds=60))
    Event().wait(moment)
    context.say(f"kill -9 {pid} after {moment:.1f} s")
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError as error:
        # It was done already: then there was nothing to kill, and the rest of the run still counts.
        context.say(f"{pid} had ended by itself ({error})")
    return pid


def _flow_process(world: World) -> int | None:
    holder = world.registry.holder(SERVICE)
    if holder is None:
        return None
    if holder.pid in {os.getpid(), os.getppid(), 0, 1}:
        text = f"the lease says that process {holder.pid} is the flow's: that one is not killed"
        raise PermanentError(text)
    return holder.pid

"""The bench `wrk`: players on the load balancer while the fleet goes 2, 6, 2; not one request may fail."""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence

from cli.bench import Context, Json, Run
from cli.bench.parts import require_room, scale_to
from forkyard.errors import NotFound, PermanentError

_CONNECTIONS = 8
_LONGEST = 600
"""Seconds after which wrk ends by itself, so that a bench that is killed leaves no load behind for long."""


def measure_wrk(context: Context) -> Sequence[Run]:
    """Load, 2 to 6 to 2, the end of the load; count what failed."""
    require_room(context, 6)
    if shutil.which("wrk") is None:
        text = "wrk is not installed. Install it: apt-get install wrk"
        raise NotFound(text)
    return [_measure_once(context) for _ in range(context.runs)]


def _measure_once(context: Context) -> Run:
    scale_to(context, 2)
    url = context.settings.nginx.url
    script = ("wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_LONGEST}s", "--timeout", "10s", "--latency", url)
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
        started = time.monotonic()
        try:
            scale_to(context, 6)
            scale_to(context, 2)
        finally:
            load.send_signal(2)  # wrk prints its summary on SIGINT
            output, _ = load.communicate(timeout=30)
        seconds = time.monotonic() - started
    scale_to(context, 0)
    return Run(*parse_wrk(output, seconds))


def parse_wrk(output: str, seconds: float) -> tuple[float, Json]:
    """Read wrk's summary: how many requests failed, and the rest as details."""
    requests = re.search(r"(\d+) requests in", output)
    if requests is None or int(requests[1]) == 0:
        text = f"wrk got no answer at all: {output.strip()[-400:]}"
        raise PermanentError(text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    sockets = (
        dict(zip(("connect", "read", "write", "timeout"), map(int, errors.groups()), strict=True)) if errors else {}
    )
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    non_2xx = int(bad[1]) if bad else 0
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    details: Json = {
        "requests": int(requests[1]),
        "seconds": round(seconds, 3),
        "per_second": float(rate[1]) if rate else 0.0,
        "socket_errors": sockets,
        "non_2xx": non_2xx,
        "connections": _CONNECTIONS,
    }
    return float(sum(sockets.values()) + non_2xx), details

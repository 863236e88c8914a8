"""
The process that serves the deployments: it looks for scheduled runs and starts each in a process of its own.

Its own imports are small and lazy, because each run's process imports this module again as the main one.
"""

import asyncio
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.schedules import Schedule

    from forkyard.settings import Settings

POLL = timedelta(seconds=3)
"""
Time between two looks for scheduled runs, and for cancelled ones.

The server tells of each at once, so this is for what got lost.
"""

SWEEP = timedelta(minutes=10)
"""Time between two sweeps of the reaper, for each service."""

SERVER_UP = timedelta(seconds=120)
"""How long the server may take to start; both are started at the same time."""

FLOWS = {"scale": "flows.scale:scale", "reap": "flows.reap:reap_service"}
"""By deployment (and flow) name: where the flow is found."""


async def serve(settings: "Settings", ready: Path | None) -> None:
    """Register the deployments, touch *ready*, and run what is scheduled, until ended by a signal."""
    from flows.reap import reap_service  # noqa: PLC0415 - see above, as for all in here
    from flows.runs import Runs  # noqa: PLC0415
    from flows.scale import scale  # noqa: PLC0415
    from flows.warm import WarmRunner  # noqa: PLC0415
    from forkyard.waiting import wait_for  # noqa: PLC0415

    api = Runs(settings.prefect.api_url)
    wait_for(lambda: api.is_up() or None, what="the Prefect server", timeout=SERVER_UP)
    runner = WarmRunner(
        FLOWS,
        hypervisors={service.hypervisor for service in settings.services.values()},
        ready=ready,
        name="forkyard",
        query_seconds=POLL.total_seconds(),
        pause_on_shutdown=False,
        limit=None,
    )
    schedules = [_sweep(service) for service in sorted(settings.services)]
    for found, when in ((scale, []), (reap_service, schedules)):
        deployment = await found.ato_deployment(
            name=found.name, tags=["forkyard"], schedules=when, description=found.description
        )
        await runner.aadd_deployment(deployment)
    await runner.start()


def _sweep(service: str) -> "Schedule":
    from prefect.schedules import Interval  # noqa: PLC0415

    return Interval(SWEEP, parameters={"service": service}, slug=f"sweep-{service}")


def make_environment(settings: "Settings") -> dict[str, str]:
    """Make what Prefect must know in this process and in each run's."""
    url = settings.prefect.api_url
    plain = url.startswith("http://")
    return {
        "PREFECT_API_URL": url,
        # Without it a client that finds no server starts one of its own, which nobody ends.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        # Each client loads the system's certificates, for 0.1 s of CPU, also where nothing is encrypted.
        **({"PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true"} if plain else {}),
    }


def main() -> None:
    """Serve what forkyard.toml describes; arguments: a file to touch when ready, and forkyard.toml's path."""
    from forkyard.settings import CONFIG_VARIABLE, load_settings  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO)
    # A line for each look for runs would be all that the log has.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ready, config = (Path(word).resolve() if word else None for word in (*sys.argv[1:3], "", "")[:2])
    settings = load_settings(config)
    # Before anything of Prefect is imported: it reads its settings from there, once, and so do the runs' processes.
    os.environ.update(make_environment(settings))  # noqa: TID251 - Prefect's settings, not ours
    if config is not None:
        # Whoever can begin a run in the workflow server must not choose by which file it goes.
        os.environ[CONFIG_VARIABLE] = str(config)  # noqa: TID251 - for the runs' processes, which read it as any command
    asyncio.run(serve(settings, ready))


if __name__ == "__main__":
    main()

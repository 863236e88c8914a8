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

POLL = timedelta(seconds=0.5)
"""Time between two looks for scheduled runs: half of it is added to each start, and each costs the server some ms."""

HEARTBEAT = timedelta(seconds=30)
"""A run tells so often that it lives; Prefect takes no shorter time. For a runner that was killed with its runs."""

FLOWS = {"scale": "flows.scale:scale", "reap": "flows.reap:reap_service"}
"""By deployment (and flow) name: where the flow is found."""


async def serve(api_url: str, config: Path | None) -> None:
    """Register the deployments with the server and run what is scheduled, until ended by a signal."""
    from flows.reap import reap_service
    from flows.scale import scale
    from flows.warm import WarmRunner

    parameters = {"config": str(config)} if config else {}
    runner = WarmRunner(FLOWS, name="forkyard", query_seconds=POLL.total_seconds(), pause_on_shutdown=False, limit=None)
    for found in (scale, reap_service):
        deployment = await found.ato_deployment(name=found.name, parameters=parameters, tags=["forkyard"])
        await runner.aadd_deployment(deployment)
    logging.getLogger(__name__).info("serving %s at %s", ", ".join(FLOWS), api_url)
    await runner.start()


def main() -> None:
    """Serve what forkyard.toml (the first argument, or its usual place) describes."""
    from forkyard.settings import load_settings

    config = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    settings = load_settings(config)
    # Before anything of Prefect is imported: it reads its settings then, once.
    os.environ.setdefault("PREFECT_API_URL", settings.prefect.api_url)
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(int(HEARTBEAT.total_seconds())))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    if os.environ["PREFECT_API_URL"].startswith("http://"):
        # Each client loads the system's certificates all the same, for 0.1 s of CPU, and no byte is encrypted here.
        os.environ.setdefault("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "true")
    asyncio.run(serve(os.environ["PREFECT_API_URL"], config))


if __name__ == "__main__":
    main()

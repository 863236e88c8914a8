"""The scale flow on a pretended world, for tests that need a run in a process of its own."""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import flow_run

from flows.scale import RUNNER, scale_with
from flows.warm import WarmRunner
from forkyard.model import ScaleRequest
from tests.flows.yard import Yard, make_yard


@flow(name="pretend", task_runner=RUNNER, persist_result=False)
def pretend(
    service: str, target: int, folder: str, fork_seconds: float = 0.0, identify_seconds: float = 0.0
) -> State[Any] | dict[str, object]:
    """Scale a pretended service; write pid and, at the end, what is there into *folder*."""
    yard = make_yard()
    yard.fake.delay("fork", timedelta(seconds=fork_seconds))
    yard.fake.delay("identify", timedelta(seconds=identify_seconds))
    request = ScaleRequest(str(flow_run.id), service, target, "tester", datetime.now(UTC))
    (Path(folder) / "pid").write_text(str(os.getpid()))
    try:
        return scale_with(yard.world, request)
    finally:
        (Path(folder) / "left.json").write_text(json.dumps(_describe(yard)))


def _describe(yard: Yard) -> dict[str, object]:
    return {
        "vms": yard.names(),
        "serving": yard.serving(),
        "entries": sorted(entry.registration.node for entry in yard.fake.entries.values()),
        "forks": yard.fake.counted()["fork"],
        "leases": sorted(yard.fake.holders),
    }


async def serve(ready: Path) -> None:
    """Serve the flow from a warm process, as the lab's are served, but for its polls: runs begin when heard of."""
    where = {"pretend": "tests.flows.pretend:pretend"}
    runner = WarmRunner(where, ready=ready, query_seconds=3600, pause_on_shutdown=False)
    await runner.aadd_deployment(await pretend.ato_deployment(name="pretend"))
    await runner.start()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))

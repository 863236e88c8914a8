"""
Start each run's process by forking one that has imported everything already.

Prefect's runner starts `python -m prefect.engine` for each run, whose imports take two seconds of CPU. Here a process
that runs neither thread nor flow imports them once (the standard library's fork server), and each run is a fork of it:
a process of its own all the same, with its own pid to kill, and the runner's control channel for cancelling.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

import anyio
from httpx import HTTPError
from prefect._internal.control_listener import configure_from_env
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.engine import handle_engine_signals
from prefect.exceptions import PrefectException
from prefect.flow_engine import load_flow_run, run_flow
from prefect.runner import Runner
from prefect.runner._process_manager import ProcessHandle
from prefect.states import Cancelled, Crashed, Scheduled

from flows.events import CREATIONS, RunEvents, listening
from flows.marks import MarkingClient, find_taker, show_life, shows_life
from forkyard.errors import NotReady
from forkyard.waiting import wait_for

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from anyio.abc import TaskStatus
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

PRELOADED = (
    *("prefect.flow_engine", "prefect.task_engine", "prefect.engine", "prefect.concurrency._sync"),
    *("prefect.utilities.visualization", "anyio._backends._asyncio", "encodings.idna", "rich._emoji_codes"),
    # Where a run's process begins.
    "flows.warm",
    # What `open_world` and the first child would else pay, half a second of CPU together with a driver.
    *("forkyard.registry.consul", "forkyard.balancer.nginx"),
    *("forkyard.requests.gate", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql"),
)
"""What every run imports beside its flow, much of it lazily; imported once, in the process that is forked."""

DRIVERS: Mapping[str, Sequence[str]] = {
    "qemu": (
        *("forkyard.hypervisors.qemu.driver", "forkyard.hypervisors.qemu.network", "forkyard.hypervisors.qemu.qmp"),
        *("pyroute2", "pyroute2.netns"),
    ),
    "vsphere": ("forkyard.hypervisors.vsphere.driver", "pyVmomi.SoapAdapter"),
}
"""The same by hypervisor: only what some service uses."""


LOST = timedelta(seconds=3)
"""Time between two looks for runs without a process; one that is seen without it twice has lost it."""


GIVE_BACK = signal.SIGUSR1
"""Tells a run's process to end without a word, if it only waits for its moment."""

GIVING_BACK = timedelta(seconds=5)
"""How long that may take."""


class WarmRunner(Runner):
    """
    A runner whose runs begin at once, and end when their process does.

    Prefect has no public way to choose how a runner starts its processes, nor to have it look for runs when it hears of
    one; the private names used here are why Prefect is pinned to a minor release.
    """

    def __init__(
        self,
        flows: Mapping[str, str],
        *,
        hypervisors: Iterable[str] = (),
        ready: Path | None = None,
        **options: Any,  # noqa: ANN401 - Prefect's own
    ) -> None:
        """
        Serve *flows*: by deployment name, where each is found (`module:name`); touch *ready* when runs may come.

        The drivers of *hypervisors* are imported ahead.
        """
        super().__init__(**options)
        self._ready = ready
        self._flows = dict(flows)
        self.alive: dict[UUID, BaseProcess] = {}
        self._ears = ExitStack()
        self._look: asyncio.Future[None] | None = None
        self._heard = self._ending = False
        self._context = multiprocessing.get_context("forkserver")
        drivers = [module for name in hypervisors for module in DRIVERS[name]]
        modules = [where.partition(":")[0] for where in flows.values()]
        self._context.set_forkserver_preload([*PRELOADED, *drivers, *modules])

    async def __aenter__(self) -> Self:
        """Start as any runner, and have the imports done before the first run comes."""
        await super().__aenter__()
        poller, turn = self._scheduled_run_poller, asyncio.Lock()
        poller._resolve_starter = self.make_starter  # noqa: SLF001 - see above
        submit = poller._get_and_submit_flow_runs  # noqa: SLF001 - as well

        async def submit_alone(*given: Any, **named: Any) -> None:  # noqa: ANN401 - Prefect's own
            # Two looks at once could each find the same run: one late answer, and a short run would be begun twice.
            async with turn:
                await submit(*given, **named)

        poller._get_and_submit_flow_runs = submit_alone  # type: ignore[method-assign]  # noqa: SLF001 - as well
        self._state_proposer._client = cast("PrefectClient", MarkingClient(self._client))  # noqa: SLF001 - as well
        await self._settle_abandoned()
        await anyio.to_thread.run_sync(self._warm_up)
        if self._ready is not None:
            self._ready.touch()
        self._watch = asyncio.ensure_future(self._settle_lost())
        loop = asyncio.get_running_loop()

        def look() -> None:
            with suppress(RuntimeError):  # the loop has ended: so have all looks
                loop.call_soon_threadsafe(self._look_soon)

        events = RunEvents(str(self._client.api_url), CREATIONS)
        self._ears.enter_context(listening(events, lambda _: look(), look))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End as any runner."""
        self._watch.cancel()
        self._end_looks()
        try:
            await anyio.to_thread.run_sync(self._ears.close)
        finally:
            await super().__aexit__(*exc_info)

    def _end_looks(self) -> None:
        self._ending = True
        if self._look is not None:
            self._look.cancel()

    def _look_soon(self) -> None:
        """Look for scheduled runs now, not at the next poll; what is heard of during a look is the next one's."""
        if self._ending:
            return
        self._heard = True
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._look_now())

    async def _look_now(self) -> None:
        while self._heard:
            self._heard = False
            try:
                await self._scheduled_run_poller._get_and_submit_flow_runs()  # noqa: SLF001 - as above
            except (HTTPError, PrefectException):
                logger.warning("could not look for scheduled runs; there is a next poll", exc_info=True)

    async def _settle_abandoned(self) -> None:
        """Settle the runs of a runner that was killed; Prefect would show them as running for ever."""
        for run in await self._list_lost():
            await self._settle(run, "its process ended with the one that served it. Ask again, or run `forkyard reap`.")

    async def _settle_lost(self) -> None:
        """
        End the runs whose process is gone and of which nobody said so.

        Prefect forgets a run as its process ends. Cancelled at that very moment, the run would stay Cancelling
        for ever, and whoever follows it would wait as long.
        """
        seen: set[UUID] = set()
        while True:
            await asyncio.sleep(LOST.total_seconds())
            try:
                lost = {run.id: run for run in await self._list_lost()}
                for known in seen & lost.keys():
                    await self._settle(lost[known], "its process is gone. Ask again, or run `forkyard reap`.")
                seen = set(lost)
            except (HTTPError, PrefectException):
                # The server is busy or away: Prefect's own client asked again already; there is a next look.
                logger.warning("could not look for runs without a process", exc_info=True)
            except Exception:
                # Nobody waits for this look before the runner ends: without the next one, no lost run would end.
                logger.exception("looking for runs without a process failed")

    async def _list_lost(self) -> "list[FlowRun]":
        """Runs that were begun on this host, whose processes are gone, and of which no other runner will say so."""
        begun = await self._begun(StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
        if any(run.id in self.alive and run.state is not None and run.state.is_cancelling() for run in begun):
            await self._end_cancelled()
        return [run for run in begun if await self._is_lost(run)]

    async def _end_cancelled(self) -> None:
        """
        Look for runs that are to be cancelled; each is told once, whoever finds it.

        Prefect's own watch ends for good when the server is away for three of its looks; the runner lives on, deaf.
        """
        if self._cancelling_observer is not None:
            await self._cancelling_observer._check_for_cancelled_flow_runs()  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above

    async def _is_lost(self, run: "FlowRun") -> bool:
        if run.id in self.alive or shows_life(run.id):
            return False
        taker = find_taker(await self._client.read_flow_run_states(run.id))
        if taker is not None and taker.is_here:
            # One that is pending still has its process started.
            return run.state is not None and not run.state.is_pending()
        return taker is None or taker.is_gone

    async def _settle(self, run: "FlowRun", message: str) -> None:
        if _is_ahead(run):
            await self._schedule_again(run)
            return
        state = run.state
        end = Cancelled if state is not None and state.is_cancelling() else Crashed
        await self._client.set_flow_run_state(run.id, end(message=message), force=True)

    async def _begun(self, *states: StateType) -> "list[FlowRun]":
        """Runs of the deployments served here that are in one of *states*."""
        served = list(self._deployment_registry.get_deployment_ids())
        return await self._client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=served)),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
        )

    def handle_sigterm(self, *_: object) -> None:
        """Cancel the runs under way and end; Prefect 3.8's own handler makes this coroutine and never awaits it."""
        if self._loop is None or not self.started:
            sys.exit(0)
        self._loop.call_soon_threadsafe(self._stop_soon)

    def _stop_soon(self) -> None:
        self._end_looks()
        self._end = asyncio.ensure_future(self._stop())

    async def _stop(self) -> None:
        """Give back what only waits for its moment, cancel the others, and end."""
        self._scheduled_run_poller.stopping = True
        try:
            await self._give_back()
        except (HTTPError, PrefectException):
            logger.warning("runs that wait for their moment are cancelled: they cannot be given back", exc_info=True)
        finally:
            await self.astop()

    async def _give_back(self) -> None:
        ahead = [run for run in await self._begun(StateType.PENDING) if run.id in self.alive and _is_ahead(run)]
        for run in ahead:
            pid = self.alive[run.id].pid
            if pid is not None:
                os.kill(pid, GIVE_BACK)

        def wait() -> None:
            with suppress(NotReady):
                wait_for(
                    lambda: None if any(run.id in self.alive for run in ahead) else True,
                    what="the processes' end",
                    timeout=GIVING_BACK,
                )

        await anyio.to_thread.run_sync(wait)
        for run in ahead:
            # Still there: it has begun in this moment.
            if run.id not in self.alive:
                await self._schedule_again(run)

    async def _schedule_again(self, run: "FlowRun") -> None:
        moment = run.expected_start_time
        await self._client.set_flow_run_state(run.id, Scheduled(scheduled_time=moment), force=True)

    def _warm_up(self) -> None:
        process = self._context.Process(target=os.getpid)
        process.start()
        process.join()

    def make_starter(self, flow_run: "FlowRun") -> "ForkStarter":
        """Choose how the run is started; Prefect's `StarterResolver`."""
        known = flow_run.deployment_id
        deployment = known and self._deployment_registry.get_deployment_name(known)
        return ForkStarter(self, self._context, deployment or "")

    def register_control(self, run: "FlowRun") -> dict[str, str]:
        """Open the channel over which a run learns that it is cancelled, not just killed."""
        try:
            port, token = self._control_channel.register(run.id)
        except RuntimeError:  # no loopback listener could be bound: cancelling then looks like a crash
            return {}
        return {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}

    def find_flow(self, deployment: str) -> str:
        """Where the deployment's flow is found."""
        return self._flows[deployment]


class ForkStarter:
    """Prefect's `ProcessStarter`, by a fork."""

    def __init__(self, runner: WarmRunner, context: Any, deployment: str) -> None:  # noqa: ANN401 - a multiprocessing context
        """Start runs of *deployment* for *runner*."""
        self._runner, self._context, self._deployment = runner, context, deployment

    async def start(
        self, flow_run: "FlowRun", task_status: "TaskStatus[ProcessHandle]" = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the run's process, tell its handle, and wait for its end."""
        environment = self._runner.register_control(flow_run) | {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__DEPLOYMENT_NAME": self._deployment,
            # The runner runs those hooks, not the run's own process.
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        where = self._runner.find_flow(self._deployment)
        process: BaseProcess = self._context.Process(target=run_in_fork, args=(where, str(flow_run.id), environment))
        self._runner.alive[flow_run.id] = process
        try:
            process.start()
            # A forked process is to the handle what a spawned one is: pid, exit code, liveness.
            task_status.started(ProcessHandle(cast("SpawnProcess", process)))
            await anyio.to_thread.run_sync(process.join)
        finally:
            del self._runner.alive[flow_run.id]


def run_in_fork(where: str, run_id: str, environment: dict[str, str]) -> None:
    """Do in a forked process what `python -m prefect.engine` does in a fresh one."""
    signal.signal(GIVE_BACK, lambda *_: os._exit(0))
    # Seen by who looks at the process list; the command line is that of the process forked.
    Path("/proc/self/comm").write_text("forkyard-run")
    os.environ.update(environment)  # noqa: TID251 - Prefect's own way to tell a run who it is
    configure_from_env()
    module, _, name = where.partition(":")
    flow_run_id = UUID(run_id)
    with show_life(flow_run_id), handle_engine_signals(flow_run_id):
        run = load_flow_run(flow_run_id)
        # Of a run that an older forkyard has begun ahead: it goes by the runner's, as all do.
        run.parameters.pop("config", None)
        signal.signal(GIVE_BACK, lambda *_: _is_pending(run) and os._exit(0))
        Thread(target=_end_with_runner, args=(run,), name="runner-watch", daemon=True).start()
        run_flow(getattr(import_module(module), name), flow_run=run)


def _end_with_runner(run: "FlowRun") -> None:
    """Nobody would see the run end if it outlived the runner: SIGTERM then, which undoes what is half made."""
    runner = multiprocessing.parent_process()
    if runner is None:
        return
    runner.join()
    # One that still waits for its moment has nothing to undo, and no crash to tell: the next runner takes it.
    os.kill(os.getpid(), signal.SIGKILL if _is_pending(run) else signal.SIGTERM)


def _is_pending(run: "FlowRun") -> bool:
    """Whether a run has not begun; its engine keeps its state up to date."""
    return run.state is not None and run.state.is_pending()


def _is_ahead(run: "FlowRun") -> bool:
    """Whether a run was taken ahead of its moment, and has only waited for that since."""
    moment = run.expected_start_time
    return run.state is not None and run.state.is_pending() and moment is not None and run.state.timestamp < moment

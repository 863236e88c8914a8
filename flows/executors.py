"""
Two ways to run a request's tasks: as Prefect task runs, and as plain calls in threads.

The second is for when no Prefect server is there, and for measuring what Prefect itself costs. Either way a task's
arguments may be what an earlier `submit` returned: the task begins when they are done.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.futures import wait as wait_for_runs
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from forkyard.errors import TransientError

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

MOST_THREADS = 256
"""Up to 50 children have four task runs each in the air; beyond, batches are few."""


class Pending(Protocol[T_co]):
    """What a task will return."""

    def result(self) -> T_co:
        """Wait for it; raises what the task raised."""
        ...


class Executor(AbstractContextManager["Executor"], Protocol):
    """Where tasks run."""

    def submit(self, task: Task[..., R], *args: Any) -> Pending[R]:  # noqa: ANN401 - each task has its own
        """Run the task as soon as its arguments are there."""
        ...

    def settle(self, timeout: float) -> None:
        """Wait, at most *timeout* seconds, until nothing that was submitted runs any more."""
        ...


class PrefectExecutor:
    """Tasks as runs that the Prefect UI shows; only inside a flow."""

    def __init__(self) -> None:
        """Begin with none."""
        self._futures: list[PrefectFuture[Any]] = []

    def __enter__(self) -> Self:
        """Do nothing: the flow's task runner is there already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: the flow waits for its task runner."""

    def submit(self, task: Task[..., R], *args: Any) -> Pending[R]:  # noqa: ANN401 - each task has its own
        """Submit it to the flow's task runner."""
        future: PrefectFuture[R] = task.submit(*args)
        self._futures.append(future)
        return future

    def settle(self, timeout: float) -> None:
        """Wait for the runs."""
        wait_for_runs(list(self._futures), timeout=timeout)


class DirectExecutor:
    """Tasks as plain calls in threads, with the same repeats on transient errors."""

    def __init__(self) -> None:
        """Make the threads."""
        self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="task")
        self._futures: list[Future[Any]] = []

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what still runs, unless something went wrong."""
        self._pool.shutdown(wait=error is None, cancel_futures=error is not None)

    def submit(self, task: Task[..., R], *args: Any) -> Pending[R]:  # noqa: ANN401 - each task has its own
        """Call the task's function in a thread."""
        # Arguments were submitted before, so their threads were taken before: no task waits for one behind it.
        future: Future[R] = self._pool.submit(
            lambda: _repeat(task, lambda: task.fn(*(a.result() if isinstance(a, Future) else a for a in args)))
        )
        self._futures.append(future)
        return future

    def settle(self, timeout: float) -> None:
        """Wait for the calls."""
        wait(self._futures, timeout=timeout)


def _repeat(task: Task[..., R], call: Callable[[], R]) -> R:
    attempts = Retrying(
        stop=stop_after_attempt(1 + task.retries),
        wait=wait_random_exponential(multiplier=0.5, max=4),
        retry=retry_if_exception_type(TransientError),
        reraise=True,
    )
    return attempts(call)


__all__ = ["DirectExecutor", "Executor", "Pending", "PrefectExecutor"]

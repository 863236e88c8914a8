"""
How Prefect is to treat our tasks: nothing cached, nothing stored, and only what is transient run again.

Two kinds. A task for a batch of children never raises for one child and so is never run again as a whole:
`Work.attempt` repeats single calls. A task with one effect for the whole service raises, and Prefect repeats it.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE

from forkyard.errors import TransientError

# Any: these are keyword arguments of Prefect's `task`, whose types differ from key to key.
BATCH: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


def is_transient(task: object, run: object, state: object) -> bool:
    """
    Whether a task that raised may run again.

    A plain function: with a partial or a method Prefect silently never retries.
    """
    del task, run
    return isinstance(getattr(state, "data", None), TransientError)


SINGLE: dict[str, Any] = BATCH | {
    "retries": 3,
    "retry_delay_seconds": [0.5, 1, 2],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}

"""What a shell completes after TAB: names that are known here; a shell has nowhere to show an error."""

import sqlite3
from contextlib import suppress


def complete_service() -> list[str]:
    """Complete the name of a service."""
    from forkyard.errors import ForkyardError  # noqa: PLC0415 - only after TAB, as for all in here
    from forkyard.settings import load_settings  # noqa: PLC0415

    try:
        return sorted(load_settings().services)
    except ForkyardError:
        return []


def complete_request() -> list[tuple[str, str]]:
    """Complete the ID of a request that something may still come of, or that ended lately; each with what it is."""
    from forkyard.errors import ForkyardError  # noqa: PLC0415
    from forkyard.requests.peek import peek_requests  # noqa: PLC0415
    from forkyard.settings import load_settings  # noqa: PLC0415

    with suppress(ForkyardError, sqlite3.Error, OSError):
        return peek_requests(load_settings())
    return []


def complete_parent() -> list[str]:
    """Complete the name of a parent on this host."""
    from forkyard.errors import ForkyardError  # noqa: PLC0415
    from forkyard.settings import load_settings  # noqa: PLC0415

    with suppress(ForkyardError, OSError):
        return sorted(path.name for path in (load_settings().state_dir / "parents").iterdir())
    return []


def complete_bench() -> list[str]:
    """Complete the name of a bench."""
    from cli.bench import BENCHES  # noqa: PLC0415

    return sorted(BENCHES)

"""
What runs wrote down about the children that they made: the seconds that each phase took.

Kept on disk, one file a request, so that `forkyard status` can tell without the workflow server. Best
effort: a child whose run left no record has no seconds, and a broken record is passed over.
"""

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from forkyard.settings import Settings

logger = logging.getLogger(__name__)

_KEPT = 200
"""Records per service; older ones are of children long gone."""

Seconds = dict[str, dict[str, float]]


def write_history(settings: Settings, service: str, request_id: str, report: Mapping[str, object]) -> None:
    """Write down a run's report, as JSON; replaces that of an earlier attempt of the same request."""
    directory = _directory(settings, service)
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f".{request_id}.{os.getpid()}.new"
    fresh.write_text(json.dumps(report, default=str))
    fresh.replace(directory / f"{request_id}.json")
    for old in _newest_first(directory)[_KEPT:]:
        old.unlink(missing_ok=True)


def read_seconds(settings: Settings, service: str, names: Collection[str]) -> Seconds:
    """Read the seconds per phase of the children that are named."""
    missing = set(names)
    found: Seconds = {}
    for path in _newest_first(_directory(settings, service)):
        if not missing:
            break
        for name, seconds in _read(path):
            if name in missing and seconds:
                found[name] = seconds
        missing -= found.keys()
    return found


def _read(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    try:
        record = json.loads(path.read_text())
        for child in record["children"]:
            yield str(child["name"]), {str(phase): float(s) for phase, s in child["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("%s: passed over: %s", path, error)


def _newest_first(directory: Path) -> list[Path]:
    def age(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return 0.0  # another run has just removed it

    return sorted(directory.glob("*.json"), key=age, reverse=True)


def _directory(settings: Settings, service: str) -> Path:
    return settings.state_dir / "reports" / service

"""What `forkyard doctor` looks at of requests: the pre-sale calendar, and the key that approvals are signed with."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cli.doctor import Finding, failed, passed
from forkyard.approvals import find_key_file
from forkyard.errors import RequestError
from forkyard.keys import load_key
from forkyard.presales import parse_calendar
from forkyard.settings import Settings, find_config


def check_calendar(settings: Settings, config: Path | None) -> Iterable[Finding]:
    """Whether presales.toml can be followed; nothing is said where there is none and none is named."""
    path = settings.requests.calendar or find_config(config).with_name("presales.toml")
    try:
        text = path.read_text(encoding="utf-8")
        calendar = parse_calendar(text, settings.services, source=str(path), now=datetime.now(UTC))
    except FileNotFoundError:
        if settings.requests.calendar is not None:
            yield failed("calendar", f"{path}: is not there", "Put it back, or name another in requests.calendar.")
    except (OSError, UnicodeDecodeError, RequestError) as error:
        yield failed("calendar", str(error), "Mend it; until then only what was approved is followed.")
    else:
        yield passed("calendar", f"{path}: {len(calendar.events)} events")


def check_key(settings: Settings) -> Iterable[Finding]:
    """Whether the key is there that approvals and the log hang on; before the first request there is none."""
    path = find_key_file(settings)
    if not path.exists() and not path.with_name(f"{path.name}.made").exists():
        return
    try:
        load_key(path)
    except RequestError as error:
        yield failed("approvals' key", str(error), "See docs/adr/0009-runs-verify-approvals.md.")
    else:
        yield passed("approvals' key", f"{path}: keep a copy of it elsewhere")

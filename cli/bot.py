"""`forkyard bot`: say what is missing, or stay and listen to Slack."""

import logging
import signal
from pathlib import Path
from threading import Event
from types import FrameType

from cli.failures import AS_ASKED, CAN_BE_MENDED
from cli.output import emit, say
from cli.settings_file import SettingsFile


def run_bot(config: Path | None, *, lab: bool, check: bool, as_json: bool) -> int:
    """Stay until SIGINT or SIGTERM, unless something is missing."""
    from bot.checks import find_missing, find_missing_in_slack, read_secrets  # noqa: PLC0415 - Slack's libraries

    logging.getLogger("bot").setLevel(logging.INFO)
    load = SettingsFile(config, lab=lab)
    chatops = load().chatops
    secrets = read_secrets(chatops)
    missing, warnings = list(find_missing(chatops, secrets)), list[str]()
    if not missing:
        found = list(find_missing_in_slack(chatops, secrets))
        missing = [finding.text for finding in found if finding.stops]
        warnings = [finding.text for finding in found if not finding.stops]
    for sentence in [*missing, *(f"warning: {text}" for text in warnings)]:
        say(f"forkyard bot: {sentence}")
    if as_json:
        emit({"missing": missing, "warnings": warnings})
    if missing or check:
        return CAN_BE_MENDED if missing else AS_ASKED
    from bot.run import running_bot  # noqa: PLC0415 - imports what a refused start need not wait for

    stop = Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with running_bot(load, secrets, config=config):
        say(f"listening to Slack by {'connections of our own' if chatops.mode == 'socket' else 'signed requests'}")
        stop.wait()
    return AS_ASKED

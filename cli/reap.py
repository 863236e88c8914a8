"""`forkyard reap`: the reaper at a terminal."""

import getpass
from pathlib import Path

from cli.bench.apart import clear_abandoned, find_abandoned
from cli.fleet import select_services
from cli.output import emit, make_console, say
from cli.shapes import reap_shape
from forkyard.holders import make_holder
from forkyard.names import new_request_id
from forkyard.reap import OrphanKind, ReapReport, reap
from forkyard.settings import Settings, load_settings
from forkyard.world import open_world


def run_reap(config: Path | None, service: str | None, *, dry_run: bool, as_json: bool) -> int:
    """Reap one service or all; code 0 when nothing that was found is left."""
    settings = load_settings(config)
    reports = [_reap(settings, name, dry_run=dry_run) for name in select_services(settings, service)]
    clean = all(report.clean for report in reports)
    benches = _reap_benches(settings, dry_run=dry_run) if service is None else []
    if as_json:
        services = {report.service: reap_shape(report) for report in reports}
        emit({"services": services, "benches": benches, "clean": clean})
    else:
        from cli.tables import reap_table  # noqa: PLC0415 - only for people

        console = make_console()
        for report in reports:
            found = report.removals or report.seen_once
            console.print(reap_table(report) if found else f"{report.service}: nothing to reap")
        if any(removal.orphan.kind is OrphanKind.DEAD for report in reports for removal in report.removals):
            console.print("Next: forkyard status, which says how to have as many again as were wanted.")
        for left in benches:
            console.print(f"{left}: {'left' if dry_run else 'removed what was left'} by a bench that was killed")
    return 0 if clean else 1


def _reap_benches(settings: Settings, *, dry_run: bool) -> list[str]:
    """End what benches left that were killed; their directories."""
    return [str(path) for path in (find_abandoned if dry_run else clear_abandoned)(settings)]


def _reap(settings: Settings, service: str, *, dry_run: bool) -> ReapReport:
    say(f"{service}: looking twice for what nobody owns")
    holder = make_holder(new_request_id(), who=getpass.getuser(), reason="reap")
    with open_world(settings, service) as world:
        return reap(world, holder, dry_run=dry_run)

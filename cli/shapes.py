"""
The JSON that scripts rely on: keys here are kept stable; new ones may be added, none renamed or removed.

Pure: values of the core in, plain dictionaries out.
"""

from collections.abc import Mapping
from dataclasses import asdict

from forkyard.model import Child, Fleet, Phase, ScalePlan, StepKind
from forkyard.reap import Orphan, ReapReport

Json = dict[str, object]

_NO_SECONDS: Mapping[str, Mapping[str, float]] = {}


def child_shape(child: Child, seconds: Mapping[str, float] | None = None) -> Json:
    """One child: what `status` and `scale` say of it."""
    vm = child.vm
    return {
        "name": vm.name,
        "address": vm.address,
        "phase": child.phase.value,
        "parent": vm.parent,
        "host": vm.host,
        "pid": vm.pid,
        "pss_bytes": vm.pss_bytes,
        "seconds": dict(seconds if seconds is not None else child.seconds),
        "fork_id": vm.stamp.fork_id,
        "request_id": vm.stamp.request_id,
        "kept": vm.stamp.expires is None,
        "in_upstream": child.in_upstream,
        "created": vm.created.isoformat(),
    }


def service_shape(fleet: Fleet, seconds: Mapping[str, Mapping[str, float]] = _NO_SECONDS) -> Json:
    """One service: what `status` says of it."""
    return {
        "wanted": fleet.intent.wanted if fleet.intent is not None else None,
        "serving": len(fleet.serving),
        "children": [child_shape(child, seconds.get(child.vm.name)) for child in fleet.children],
        "parents": [asdict(parent) for parent in fleet.parents],
        "placements": [asdict(place) for place in fleet.placements],
        "strays": [asdict(stray) for stray in fleet.strays],
        "unserved": fleet.unserved or None,
        "observed_at": fleet.observed_at.isoformat(),
    }


def plan_shape(plan: ScalePlan, fleet: Fleet) -> Json:
    """What would be done."""
    return {
        "service": plan.request.service,
        "asked": plan.request.target,
        "now": plan.current,
        "wanted": plan.target,
        "serving": len(fleet.serving),
        "children": [child_shape(child) for child in fleet.children],
        "steps": [
            {
                "kind": step.kind.value,
                "name": step.name,
                "parent": step.placement.parent if step.placement else None,
                "host": step.placement.host if step.placement else None,
            }
            for step in plan.steps
        ],
        "room": [asdict(place) for place in fleet.placements],
        "notes": list(plan.notes),
        "changes": {kind.value: len(plan.of(kind)) for kind in StepKind},
    }


def orphan_shape(orphan: Orphan) -> Json:
    """One orphan, without what it was derived from."""
    return {"kind": orphan.kind.value, "name": orphan.name, "mark": orphan.mark, "why": orphan.why}


def reap_shape(report: ReapReport) -> Json:
    """What was found and removed."""
    return {
        "service": report.service,
        "found": len(report.removals),
        "removed": 0 if report.dry_run else sum(1 for removal in report.removals if removal.error is None),
        "clean": report.clean,
        "dry_run": report.dry_run,
        "orphans": [orphan_shape(removal.orphan) | {"error": removal.error} for removal in report.removals],
        "seen_once": [orphan_shape(orphan) for orphan in report.seen_once],
    }


def is_as_asked(fleet: Fleet) -> bool:
    """Whether as many serve as are wanted, and nothing else is there."""
    wanted = fleet.intent.wanted if fleet.intent is not None else 0
    return len(fleet.serving) == wanted == len(fleet.children) and not fleet.strays


def count_phases(fleet: Fleet) -> dict[Phase, int]:
    """How many children are in each phase that has any."""
    return {phase: number for phase in Phase if (number := sum(c.phase is phase for c in fleet.children))}

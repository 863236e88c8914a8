"""
A plan as a person approves it: counts, places, room and times, with a hash that stands for exactly that.

Pure. The names of children are not in it: they follow from the request's id. What may change without anybody minding
(how long it will take) is kept beside the hash, not under it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from forkyard.model import Fleet, ScalePlan, StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRecord:
    """What a plan does at one parent on one host, and the room there before and after."""

    parent: str
    host: str
    forks: int
    room: int
    limited_by: str = ""

    @property
    def room_after(self) -> int:
        """Room that is left."""
        return self.room - self.forks


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One plan on record."""

    request_id: str
    service: str
    current: int
    """Children that counted when it was made; a rollback goes back to them."""
    target: int
    forks: int
    retires: int
    removes: int
    places: tuple[PlaceRecord, ...] = ()
    parents: tuple[str, ...] = ()
    """Fingerprints of the parents: another parent is another plan."""
    notes: tuple[str, ...] = ()
    start_at: datetime | None = None
    later: tuple[tuple[datetime, int], ...] = ()
    """What follows by itself and is approved together with this: at each moment, how many children."""
    expected_seconds: float | None = None
    """From the last runs; None: nothing to go by."""
    idle: bool = False
    """Whether the fleet was as asked already, on record too: a run would change nothing at all."""
    asked: int | None = None
    """What was asked for, where one request may not change so much at once; None: *target*."""

    @property
    def change(self) -> int:
        """Children made or retired."""
        return self.forks + self.retires

    @property
    def hash(self) -> str:
        """What an approval is for: the same plan has the same hash, and any other another."""
        fields = asdict(self)
        del fields["expected_seconds"], fields["notes"], fields["idle"], fields["asked"]
        # Room breathes with the host's memory; the approval is for what is done, not for what else would fit.
        fields["places"] = [[p.parent, p.host, p.forks] for p in self.places if p.forks]
        text = json.dumps(fields, sort_keys=True, default=str, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_record(
    plan: ScalePlan,
    fleet: Fleet,
    *,
    start_at: datetime | None = None,
    later: Sequence[tuple[datetime, int]] = (),
    expected_seconds: float | None = None,
) -> PlanRecord:
    """Put on record what *plan* does to *fleet*."""
    forks = Counter((s.placement.parent, s.placement.host) for s in plan.of(StepKind.FORK) if s.placement is not None)
    return PlanRecord(
        request_id=plan.request.id,
        service=plan.request.service,
        current=plan.current,
        target=plan.target,
        forks=len(plan.of(StepKind.FORK)),
        retires=len(plan.of(StepKind.RETIRE)),
        removes=len(plan.of(StepKind.REMOVE)),
        places=tuple(
            PlaceRecord(
                parent=p.parent, host=p.host, forks=forks[p.parent, p.host], room=p.room, limited_by=p.limited_by
            )
            for p in fleet.placements
        ),
        parents=tuple(sorted(parent.fingerprint for parent in fleet.parents)),
        notes=plan.notes,
        start_at=start_at,
        later=tuple(later),
        expected_seconds=expected_seconds,
        idle=_is_idle(plan, fleet),
        asked=plan.request.target if plan.request.target != plan.target else None,
    )


def _is_idle(plan: ScalePlan, fleet: Fleet) -> bool:
    # Children that their request did not come to keep are kept by the next run, and a wish is put on record by it.
    kept = all(child.vm.stamp.expires is None for child in fleet.children)
    wanted = fleet.intent.wanted if fleet.intent is not None else 0
    return not plan.steps and kept and not fleet.unserved and wanted == plan.target


def find_later(back: int, hold_seconds: int | None, begin: datetime) -> tuple[tuple[datetime, int], ...]:
    """What follows by itself: after its hold the fleet goes *back* to what there was."""
    if hold_seconds is None:
        return ()
    return (((begin + timedelta(seconds=hold_seconds)).replace(microsecond=0), back),)


def find_step(approved: PlanRecord, at: datetime | None, number: int) -> PlanRecord | None:
    """What was approved with *approved* for the step that follows it at a moment; None: there is no such step."""
    before = approved.target
    for moment, target in approved.later:
        if (moment, target) == (at, number):
            return PlanRecord(
                request_id=approved.request_id,
                service=approved.service,
                current=before,
                target=target,
                forks=max(0, target - before),
                retires=max(0, before - target),
                removes=0,
                parents=approved.parents,
                start_at=moment,
            )
        before = target
    return None


def find_drift(approved: PlanRecord, now: PlanRecord, *, tolerance: int) -> str | None:
    """Say how the plan that would run now differs too much from the one that was approved; None: it does not."""
    if now.target != approved.target:
        return f"the plan now goes to {now.target}, and {approved.target} was approved"
    away = abs(now.current - approved.current)
    if away > tolerance:
        return f"{now.current} children count now, and {approved.current} when it was approved ({tolerance} may differ)"
    if now.retires > approved.retires + tolerance:
        return f"{now.retires} children would be retired now, and {approved.retires} when it was approved"
    # The first fork ever freezes its parent only then: no fingerprint was there to be approved.
    if approved.parents and now.parents != tuple(sorted(approved.parents)) and now.forks:
        return "the parent is another one than when it was approved"
    return None


def record_to_json(record: PlanRecord) -> str:
    """The record as text for its row."""
    return json.dumps(asdict(record), default=str)


def record_from_json(text: str) -> PlanRecord:
    """The record in a row."""
    fields: dict[str, Any] = json.loads(text)
    places = tuple(PlaceRecord(**place) for place in fields.pop("places"))
    start = fields.pop("start_at")
    fields["start_at"] = datetime.fromisoformat(start) if start else None
    fields["later"] = tuple((datetime.fromisoformat(at), number) for at, number in fields["later"])
    for key in ("parents", "notes"):
        fields[key] = tuple(fields[key])
    return PlanRecord(places=places, **fields)

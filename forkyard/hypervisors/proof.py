"""
What a guest must prove before it gets a network, whoever carried its answer to us.

Nothing is believed as a whole: each point is looked at, and what can be compared is compared with what was asked.
"""

from collections.abc import Mapping

from forkyard import wire
from forkyard.errors import VerificationFailed
from forkyard.wire import Identity, IdentityReport


def check_identity(identity: Identity, *, name: str, fork_id: str, mac: str, address: str) -> None:
    """Refuse an identity that is not the one the child was made with; raises VerificationFailed."""
    made_with = (name, fork_id, mac, address)
    asked = (identity.name, identity.fork_id, identity.mac, identity.address.partition("/")[0])
    for what, here, there in zip(("name", "fork id", "MAC", "address"), made_with, asked, strict=True):
        if here != there:
            text = f"child {name}: the identity's {what} is {there}, but the child's is {here}."
            raise VerificationFailed(text)


def read_report(answer: Mapping[str, object], identity: Identity) -> IdentityReport:
    """The report in a guest's answer to `identify`; raises VerificationFailed naming what is not proved."""
    if answer.get("ok") is not True:
        text = f"{identity.name}: the guest could not take its identity: {answer.get('error', answer)}"
        raise VerificationFailed(text)
    try:
        report = wire.report_from_wire(answer.get("report"))
    except wire.WireError as error:
        text = f"{identity.name}: the guest's report cannot be read: {error}"
        raise VerificationFailed(text) from error
    # What is left unproved is our configuration's to say, never a guest's.
    problems = ["it says itself what it need not prove"] if report.left else _find_problems(report, identity)
    if problems:
        text = f"{identity.name}: the guest did not prove its identity: {'; '.join(problems)}. Its network stays down."
        raise VerificationFailed(text)
    return report


def _find_problems(report: IdentityReport, identity: Identity) -> list[str]:
    proved = {point.point: point for point in report.points if point.proved}
    problems = [f"{point} is not proved" for point in wire.POINTS if point not in proved]
    problems += [f"{p.point}: {p.value} {p.detail}".rstrip() for p in report.points if not p.proved]
    if report.fork_id != identity.fork_id:
        problems.append(f"it reports fork {report.fork_id}")
    wanted = {
        "mac": identity.mac,
        "hostname": identity.name,
        "address": identity.address,
        "machine_id": identity.machine_id,
        "consul_node": f"{identity.name} {identity.consul_node_id}",
        "fork_uuid": identity.fork_id,
    }
    for point, value in wanted.items():
        found = proved[point].value if point in proved else value
        # An address may be told with or without its prefix length.
        if found.partition("/")[0] != value.partition("/")[0]:
            problems.append(f"{point} is {found}, not {value}")
    return problems

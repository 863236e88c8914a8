"""Where a child is on its way, from what three parts of the outside say."""

import pytest

from forkyard.model import Phase, Power, Registration, Server, Upstream, Vm
from forkyard.phases import derive_phase, make_fleet
from tests.support.fleets import NOW, a_registration, a_vm

NAME = "game-aaaaaa-1"
PASSING, CRITICAL = a_registration(NAME), a_registration(NAME, status="critical")


@pytest.mark.parametrize(
    ("vm", "registration", "in_upstream", "phase"),
    [
        (a_vm(NAME, kept=False, identified=False), None, False, Phase.FORKED),
        (a_vm(NAME, kept=False), None, False, Phase.IDENTIFIED),
        (a_vm(NAME, kept=False), CRITICAL, False, Phase.REGISTERED),
        (a_vm(NAME, kept=False), a_registration(NAME, status="warning"), False, Phase.REGISTERED),
        (a_vm(NAME, kept=False), PASSING, False, Phase.READY),
        (a_vm(NAME, kept=False), PASSING, True, Phase.SERVING),
        (a_vm(NAME), PASSING, True, Phase.SERVING),
        (a_vm(NAME), a_registration(NAME, draining=True), True, Phase.DRAINING),
        (a_vm(NAME), CRITICAL, True, Phase.FAILED),
        (a_vm(NAME), None, False, Phase.FAILED),
        (a_vm(NAME), a_registration(NAME, status="warning"), False, Phase.REGISTERED),
        (a_vm(NAME, power=Power.DEAD), PASSING, True, Phase.FAILED),
        (a_vm(NAME, kept=False, power=Power.DEAD), None, False, Phase.FAILED),
    ],
)
def test_a_phase_follows_from_what_is_seen(
    vm: Vm,
    registration: Registration | None,
    in_upstream: bool,  # noqa: FBT001 - a parameter of the table above
    phase: Phase,
) -> None:
    assert derive_phase(vm, registration, in_upstream=in_upstream) is phase


def observe(vms: list[Vm], registrations: list[Registration], *servers: Server) -> dict[str, Phase]:
    upstream = Upstream("game", servers)
    fleet = make_fleet("game", observed_at=NOW, vms=vms, registrations=registrations, upstream=upstream)
    return {child.vm.name: child.phase for child in fleet.children}


def test_a_server_that_nginx_has_marked_down_does_not_serve() -> None:
    assert observe([a_vm(NAME)], [PASSING], Server(NAME, "10.77.1.1", 80, down=True)) == {NAME: Phase.READY}


def test_an_upstream_line_with_another_address_is_not_this_child() -> None:
    assert observe([a_vm(NAME)], [PASSING], Server(NAME, "10.77.1.99", 80)) == {NAME: Phase.READY}


def test_an_entry_of_an_earlier_child_of_the_same_name_is_a_stray() -> None:
    old = a_registration(NAME, fork_id="another")
    fleet = make_fleet("game", observed_at=NOW, vms=[a_vm(NAME, kept=False)], registrations=[old], upstream=None)
    assert fleet.strays == (old,)
    assert fleet.children[0].phase is Phase.IDENTIFIED


def test_an_entry_without_a_vm_is_a_stray() -> None:
    fleet = make_fleet("game", observed_at=NOW, vms=[], registrations=[PASSING], upstream=None)
    assert fleet.strays == (PASSING,)


def test_the_worst_of_a_childs_entries_speaks_for_it() -> None:
    second = Registration("second", "game", NAME, "10.77.1.1", 81, "critical", f"fork-{NAME}")
    fleet = make_fleet(
        "game", observed_at=NOW, vms=[a_vm(NAME, kept=False)], registrations=[PASSING, second], upstream=None
    )
    assert fleet.children[0].phase is Phase.REGISTERED
    assert fleet.strays == ()

"""Where QEMU's parents and children are on the host: whose it is, and what is told when it cannot be used."""

from pathlib import Path

from tests.support.small_vm import PARENT, PATIENCE, SmallWorld, fork


def _places(world: SmallWorld) -> list[Path]:
    """Where guests' memory, disks and consoles are."""
    return [*(world.settings.state_dir / kind for kind in ("parents", "vms", "standby")), world.settings.run_dir / "q"]


def test_what_guests_hold_is_its_owners_alone_also_where_it_was_everybodys(copy: SmallWorld) -> None:
    for place in _places(copy):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
    hypervisor = copy.open()
    hypervisor.warm(PARENT, 1, timeout=PATIENCE)
    fork(hypervisor, "game-a-1")
    fork(hypervisor, "game-a-2")
    assert {place.name: f"{place.stat().st_mode & 0o777:o}" for place in _places(copy)} == {
        "parents": "700",
        "vms": "700",
        "standby": "700",
        "q": "700",
    }


def test_what_others_read_beside_it_stays_readable(world: SmallWorld) -> None:
    # Nginx's workers have their sockets below it.
    before = world.settings.state_dir.stat().st_mode
    fork(world.open(), "game-a-1")
    assert world.settings.state_dir.stat().st_mode == before

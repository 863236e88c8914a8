"""Claims on addresses: no address is dealt out twice while its first child may still be on its way."""

import errno
import tempfile
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forkyard.errors import CapacityExhausted
from forkyard.hypervisors.vsphere.addresses import CLAIM_SECONDS, AddressBook
from forkyard.settings import VsphereSettings


@dataclass
class Machine:
    """A machine with a clock that a test turns."""

    boot: str = "first"
    seconds: float = 5000.0
    files: list[Path] = field(default_factory=list)

    def open(self, directory: Path, network: str = "10.78.0.0/29", first: str = "10.78.0.1") -> AddressBook:
        """Open the claims as one of its processes."""
        wanted = VsphereSettings(network=IPv4Network(network), first_address=IPv4Address(first))
        return AddressBook(directory, wanted, boot=lambda: self.boot, clock=lambda: self.seconds)


def test_no_address_is_given_twice(tmp_path: Path) -> None:
    one, other = Machine().open(tmp_path), Machine().open(tmp_path)
    found = [book.claim({"10.78.0.2"}, owner=str(n)) for n, book in enumerate((one, other, one, other, one))]
    assert sorted(found) == [f"10.78.0.{n}" for n in (1, 3, 4, 5, 6)]
    with pytest.raises(CapacityExhausted, match=r"widen vsphere\.network"):
        one.claim({"10.78.0.2"})
    other.release("10.78.0.4", owner="2")
    assert one.claim({"10.78.0.2"}) == "10.78.0.4"


def test_only_its_owner_gives_a_claim_back(tmp_path: Path) -> None:
    book = Machine().open(tmp_path, first="10.78.0.6")
    assert book.claim((), owner="one") == "10.78.0.6"
    for stranger in ("", "another"):
        book.release("10.78.0.6", owner=stranger)
        with pytest.raises(CapacityExhausted):
            book.claim(())


def test_a_claim_that_became_nothing_is_forgotten(tmp_path: Path) -> None:
    machine = Machine()
    book = machine.open(tmp_path, first="10.78.0.6")
    book.claim((), owner="one")
    machine.seconds += CLAIM_SECONDS - 1
    with pytest.raises(CapacityExhausted):
        book.claim(())
    machine.seconds += 2
    assert book.claim((), owner="two") == "10.78.0.6"


def test_a_claim_outlives_a_reboot_until_its_fork_can_no_longer_be_on_its_way(tmp_path: Path) -> None:
    machine = Machine()
    book = machine.open(tmp_path, first="10.78.0.6")
    book.claim((), owner="one")
    machine.boot, machine.seconds = "second", 30.0
    with pytest.raises(CapacityExhausted):
        book.claim(())
    machine.seconds = CLAIM_SECONDS
    assert book.claim((), owner="two") == "10.78.0.6"


@pytest.mark.parametrize("rubbish", ["", "{", "[" * 5000, '{"owner": 1, "boot": "first", "at": 1}', "null"])
def test_a_claim_that_cannot_be_read_holds_its_address_for_a_while(tmp_path: Path, rubbish: str) -> None:
    machine = Machine()
    (tmp_path / "10.78.0.6").write_text(rubbish)
    book = machine.open(tmp_path, first="10.78.0.6")
    with pytest.raises(CapacityExhausted):
        book.claim(())
    machine.seconds += CLAIM_SECONDS
    assert book.claim(()) == "10.78.0.6"


def test_a_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    first = Machine().open(tmp_path)
    first.release(first.claim((), owner="one"), owner="one")
    assert Machine().open(tmp_path).claim(()) == "10.78.0.2"


def test_a_full_disk_is_told_as_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        assert text
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(CapacityExhausted, match="the disk is full"):
        Machine().open(tmp_path).claim(())


class Claims(RuleBasedStateMachine):
    """Several processes, time, and reboots; whatever happens, no two forks on their way share an address."""

    def __init__(self) -> None:
        """Begin with an empty directory."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.machine = Machine()
        self.books = [self.machine.open(Path(self.folder.name)) for _ in range(3)]
        self.under_way: dict[str, tuple[str, float]] = {}
        self.elapsed, self.forks = 0.0, 0

    def teardown(self) -> None:
        """Remove the directory."""
        self.folder.cleanup()

    @rule(book=st.integers(0, 2))
    def claim(self, book: int) -> None:
        """Claim one, as a fork that begins does."""
        self.forks += 1
        owner = f"fork-{self.forks}"
        try:
            address = self.books[book].claim((), owner=owner)
        except CapacityExhausted:
            return
        begun = self.under_way.get(address)
        assert begun is None or self.elapsed - begun[1] >= CLAIM_SECONDS
        self.under_way[address] = owner, self.elapsed

    @rule(book=st.integers(0, 2), late=st.booleans())
    def release(self, book: int, *, late: bool) -> None:
        """End a fork; or let one that ended long ago give back what is another's now."""
        if not self.under_way:
            return
        address, (owner, _) = next(iter(self.under_way.items()))
        self.books[book].release(address, owner="fork-0" if late else owner)
        if not late:
            del self.under_way[address]

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.machine.seconds += seconds
        self.elapsed += seconds

    @rule(boot=st.uuids())
    def reboot(self, boot: object) -> None:
        """Start the machine anew."""
        self.machine.boot, self.machine.seconds = str(boot), 0.0

    @invariant()
    def every_claim_is_in_range(self) -> None:
        """No file of another name than an address of the range, the lock and the place to go on from."""
        names = {path.name for path in Path(self.folder.name).iterdir()} - {"lock", "next"}
        assert names <= {f"10.78.0.{n}" for n in range(1, 7)}


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)

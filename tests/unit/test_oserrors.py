"""What the operating system refuses comes out of a driver as an error of ours."""

import errno
import os
from pathlib import Path

import pytest

from forkyard.balancer.nginx import NginxBalancer
from forkyard.errors import CapacityExhausted, ForkyardError, NotPermitted, Unavailable
from forkyard.oserrors import translated
from forkyard.settings import NginxSettings


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, CapacityExhausted), (errno.EACCES, NotPermitted), (errno.EROFS, Unavailable)],
)
def test_a_refusal_names_what_was_being_done_and_what_to_do(number: int, kind: type[ForkyardError]) -> None:
    with (
        pytest.raises(kind, match=r"making tea: .*`forkyard doctor`|making tea: .*with sudo"),
        translated("making tea"),
    ):
        raise OSError(number, os.strerror(number), "/a/cup")


def test_what_is_no_refusal_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), translated("making tea"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "/a/cup")


def test_a_full_disk_under_the_balancer_is_exhausted_room_and_leaves_no_half_file(tmp_path: Path) -> None:
    upstreams = tmp_path / "upstreams"
    upstreams.mkdir()
    (upstreams / "game.new").symlink_to("/dev/full")
    balancer = NginxBalancer(NginxSettings(directory=tmp_path, namespace=None))
    with pytest.raises(CapacityExhausted, match=r"game\.conf: the disk is full"):
        balancer.prepare("game")
    assert list(upstreams.iterdir()) == []

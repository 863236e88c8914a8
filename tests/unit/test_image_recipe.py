"""The image's recipe without building one: keys, the container's tar, the initrd, the mirrors."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from guest.image.build import make_layer
from guest.image.container import LIBRARIES, container_files, resolve_inside, write_container_image
from guest.image.initrd import Entry, find_modules, render_cpio
from guest.image.packages import KEYRINGS, find_sources, render_default
from guest.image.recipe import PROJECT, ImageError, Keys, layer_keys, read_image

CONSUL = "c" * 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all that the keys cover."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "guest", copy / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "forkyard").mkdir()
    shutil.copy(PROJECT / "forkyard" / "wire.py", copy / "forkyard" / "wire.py")
    return copy


def _keys(project: Path, consul: str = CONSUL, memory_mib: int = 768) -> Keys:
    return layer_keys(consul, memory_mib, project=project)


def test_the_same_inputs_have_the_same_keys_wherever_they_are(project: Path) -> None:
    assert _keys(project) == _keys(PROJECT)


@pytest.mark.parametrize("path", ["guest/agent/app.py", "guest/install/installer.py", "forkyard/wire.py"])
def test_a_change_of_the_agent_remakes_the_last_layer_only(project: Path, path: str) -> None:
    before = _keys(project)
    with (project / path).open("a") as file:
        file.write("# changed\n")
    after = _keys(project)
    assert (after.base, after.stage) == (before.base, before.stage)
    assert after.image != before.image


@pytest.mark.parametrize("path", ["guest/game/server.js", "guest/image/files/etc/docker/daemon.json"])
def test_a_change_of_the_game_or_of_the_systems_files_keeps_the_base(project: Path, path: str) -> None:
    before = _keys(project)
    with (project / path).open("a") as file:
        file.write("\n")
    after = _keys(project)
    assert after.base == before.base
    assert after.stage != before.stage
    assert after.image != before.image


def test_another_consul_and_another_memory_are_other_images(project: Path) -> None:
    images = {_keys(project).image, _keys(project, consul="d" * 64).image, _keys(project, memory_mib=1024).image}
    assert len(images) == 3


def test_bytecode_that_python_left_behind_is_no_input(project: Path) -> None:
    before = _keys(project)
    (project / "guest/agent/__pycache__").mkdir()
    (project / "guest/agent/__pycache__/app.cpython-311.pyc").write_bytes(b"x")
    assert _keys(project) == before


def _tree(root: Path) -> dict[str, Path]:
    for name in LIBRARIES:
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    node = root / "node"
    node.write_bytes(b"binary")
    return container_files(root, node, PROJECT / "guest" / "game")


def test_the_containers_tar_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        write_container_image(directory / "game.tar", _tree(directory))
        digests.add(hashlib.sha256((directory / "game.tar").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_containers_tar_names_its_layer_and_config_by_their_hashes(tmp_path: Path) -> None:
    image_id = write_container_image(tmp_path / "game.tar", _tree(tmp_path))
    with tarfile.open(tmp_path / "game.tar") as archive:
        (manifest,) = json.loads(_read(archive, "manifest.json"))
        config = _read(archive, manifest["Config"])
        layer = _read(archive, manifest["Layers"][0])
    assert image_id == f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as content:
        assert {(m.uid, m.gid, m.mtime) for m in content} == {(0, 0, 1767225600)}
        assert content.getmember("bin/node").mode == 0o755


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


def test_a_link_in_the_guests_root_stays_in_the_guests_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/real").write_text("the guest's")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/loader").symlink_to("/usr/lib/real")
    assert resolve_inside(tmp_path, "/lib64/loader").read_text() == "the guest's"


def test_modules_come_in_an_order_in_which_they_load() -> None:
    dependencies = "a/top.ko: a/middle.ko a/bottom.ko\na/middle.ko: a/bottom.ko\na/bottom.ko:\n"
    assert find_modules(dependencies, ("top", "built_in")) == ["a/bottom.ko", "a/middle.ko", "a/top.ko"]


def test_an_archive_ends_with_its_trailer_on_a_boundary() -> None:
    archive = render_cpio([Entry("init", 0o100755, b"#!")])
    assert archive.startswith(b"070701")
    assert b"TRAILER!!!" in archive
    assert len(archive) % 4 == 0


def test_mirrors_are_those_of_the_machines_own_apt() -> None:
    listing = "http://mirror.example/debian|Debian|main\nhttp://mirror.example/security|Debian-Security|main\nhttp://x|Other|x\n"
    lines = find_sources(KEYRINGS[0], listing)
    assert [line.split()[-3:] for line in lines] == [
        ["http://mirror.example/debian", "bookworm", "main"],
        ["http://mirror.example/debian", "bookworm-updates", "main"],
        ["http://mirror.example/security", "bookworm-security", "main"],
    ]


def test_a_machine_without_a_debian_mirror_leaves_the_choice_to_mmdebstrap_and_has_it_checked() -> None:
    listing = "http://mirror.example/ubuntu|Ubuntu|main\nhttp://mirror.example/ubuntu|Ubuntu|universe\n"
    assert find_sources(KEYRINGS[0], listing) == []
    assert render_default(KEYRINGS[0]) == ["--keyring=/usr/share/keyrings/debian-archive-keyring.gpg"]


def test_a_machine_that_cannot_check_debians_packages_is_told_what_to_install() -> None:
    with pytest.raises(ImageError, match="install the package debian-archive-keyring"):
        render_default(None)


def test_a_layer_is_made_once_or_again_and_an_older_one_stands_when_that_fails(tmp_path: Path) -> None:
    layer = tmp_path / "layer"

    def fill(new: Path, text: str) -> None:
        (new / "file").write_text(text)

    def make(text: str, *, again: bool = False) -> None:
        make_layer(
            layer,
            "a layer",
            make=lambda new: fill(new, text),
            progress=lambda _: None,
            again=again,
        )

    def fail(new: Path) -> None:
        (new / "file").write_text("half")
        raise OSError

    make("first")
    make("second")
    assert (layer / "file").read_text() == "first"
    make("third", again=True)
    assert (layer / "file").read_text() == "third"
    with pytest.raises(ImageError, match="a layer"):
        make_layer(layer, "a layer", make=fail, progress=lambda _: None, again=True)
    assert (layer / "file").read_text() == "third"
    assert [*tmp_path.iterdir()] == [layer]


def test_a_directory_without_image_json_is_no_image(tmp_path: Path) -> None:
    assert read_image(tmp_path) is None

"""
The game's container image, written by hand as `docker load` reads it: Node.js, the libraries it needs, the game.

The same inputs make the same bytes: entries are sorted, owned by root and carry one time stamp.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from guest.image.recipe import EPOCH
from guest.image.shell import run

TAG = "forkyard/game:latest"
GAME_FILES = ("page.js", "server.js", "world.js")

LIBRARIES = (
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libdl.so.2",
    "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/usr/lib/x86_64-linux-gnu/libm.so.6",
    "/usr/lib/x86_64-linux-gnu/libpthread.so.0",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
)

COMMAND = (
    "/bin/node",
    # A small young generation and one helper thread: what the game never needs, no child has to own.
    "--max-semi-space-size=2",
    "--max-old-space-size=64",
    "--v8-pool-size=1",
    "--expose-gc",
    "/game/server.js",
)

CONFIG = {
    "Cmd": list(COMMAND),
    "Env": ["NODE_ENV=production", "UV_THREADPOOL_SIZE=1"],
    "ExposedPorts": {"8080/tcp": {}},
    "User": "65534:65534",
    "WorkingDir": "/game",
}


def container_files(root: Path, node: Path, game: Path) -> dict[str, Path]:
    """What is where in the container; the libraries are those of the guest's own Debian."""
    # A link in there may be absolute, and means the guest's root then, not ours.
    libraries = {name.lstrip("/"): resolve_inside(root, name) for name in LIBRARIES}
    return {**libraries, "bin/node": node, **{f"game/{name}": game / name for name in GAME_FILES}}


def resolve_inside(root: Path, name: str) -> Path:
    """The file that *name* is for a process whose root is *root*."""
    path = root / name.lstrip("/")
    while path.is_symlink():
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return path.resolve()


def write_container_image(tar: Path, files: dict[str, Path]) -> str:
    """Write the image for `docker load`; returns its id."""
    layer = tar.with_suffix(".layer")
    _write_layer(layer, files)
    with layer.open("rb") as content:
        layer_id = hashlib.file_digest(content, "sha256").hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": datetime.fromtimestamp(EPOCH, UTC).isoformat(),
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}"]},
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    image_id = hashlib.sha256(config_bytes).hexdigest()
    manifest = [{"Config": f"{image_id}.json", "RepoTags": [TAG], "Layers": [f"{layer_id}/layer.tar"]}]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        _add_bytes(archive, f"{image_id}.json", config_bytes)
        archive.addfile(_entry(layer_id, tarfile.DIRTYPE, 0o755))
        with layer.open("rb") as content:
            entry = _entry(f"{layer_id}/layer.tar", tarfile.REGTYPE, 0o644)
            entry.size = layer.stat().st_size
            archive.addfile(entry, content)
        _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())
    layer.unlink()
    return f"sha256:{image_id}"


def check_runs(tar: Path) -> str:
    """Have the container's Node.js read the game without starting it: a missing library shows here, not at boot."""
    with tempfile.TemporaryDirectory(dir=tar.parent) as name, tarfile.open(tar) as archive:
        layer = next(member for member in archive.getmembers() if member.name.endswith("layer.tar"))
        with tarfile.open(fileobj=archive.extractfile(layer)) as content:
            content.extractall(name)  # noqa: S202 - written by ourselves
        return run(["chroot", name, "/bin/node", "--check", "/game/server.js"])


def _write_layer(layer: Path, files: dict[str, Path]) -> None:
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    with tarfile.open(layer, "w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in sorted(folders):
            archive.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
        for name in sorted(files):
            entry = _entry(name, tarfile.REGTYPE, 0o644 if name.startswith("game/") else 0o755)
            entry.size = files[name].stat().st_size
            with files[name].open("rb") as content:
                archive.addfile(entry, content)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = _entry(name, tarfile.REGTYPE, 0o644)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, EPOCH
    return entry

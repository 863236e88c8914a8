"""Build an image layer by layer, each made once and kept under its key."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from guest.image.disk import make_disk
from guest.image.node import find_node
from guest.image.packages import make_base
from guest.image.recipe import GUEST, KERNEL_CMDLINE, GuestImage, ImageError, layer_keys, read_image
from guest.image.shell import run
from guest.image.stage import make_stage
from guest.install import InstallError, install_agent

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
MEMORY_MIB = 768


def build_image(
    cache_dir: Path,
    *,
    consul: Path,
    progress: Progress = logger.info,
    memory_mib: int = MEMORY_MIB,
    again: bool = False,
) -> GuestImage:
    """
    The image for the present inputs, below *cache_dir*/images; made now only if it is not there yet.

    *consul* is the binary that goes into the guest. *progress* gets a sentence per step. *again*: every layer is made
    anew, the Debian base with what its mirror has today: its key says which packages, and not of which day.

    Raises:
        ImageError: a step failed; nothing half made is left under the image's name.
    """
    keys = layer_keys(_hash_binary(consul), memory_mib)
    images = cache_dir.resolve() / "images"
    layers = images / "layers"
    target = images / keys.image
    if (found := read_image(target)) and not again:
        return found
    if os.geteuid() != 0:
        text = "building a guest image makes a root filesystem and so needs root: run it with sudo"
        raise ImageError(text)
    layers.mkdir(parents=True, exist_ok=True)
    with _alone(images / ".lock"):
        base, stage = layers / f"base-{keys.base}", layers / f"stage-{keys.stage}"
        _prune(layers, keep={base, stage})
        layer = partial(make_layer, progress=progress, again=again)
        layer(base, "Debian packages (mmdebstrap)", make=lambda new: make_base(new / "root.tar"))
        layer(
            stage,
            "Docker, Consul and the game's container",
            make=lambda new: make_stage(
                new, base=base / "root.tar", consul=consul, node=find_node(cache_dir), game=GUEST / "game"
            ),
        )
        layer(target, "guest agent and disk", make=lambda new: _make_image(new, stage, keys.image, memory_mib))
    found = read_image(target)
    if found is None:
        text = f"{target} has no image.json: remove the directory and build again"
        raise ImageError(text)
    return found


def _make_image(new: Path, stage: Path, fingerprint: str, memory_mib: int) -> None:
    root = new / "root"
    run(["cp", "--archive", "--reflink=auto", stage / "root", root])
    install_agent(root)
    make_disk(root, new / "disk.qcow2")
    shutil.rmtree(root)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(stage / name, new / name)
    facts = {"kernel_cmdline": KERNEL_CMDLINE, "memory_mib": memory_mib, "fingerprint": fingerprint}
    (new / "image.json").write_text(json.dumps(facts, indent=2) + "\n")


def make_layer(
    target: Path, what: str, *, make: Callable[[Path], None], progress: Progress, again: bool = False
) -> None:
    """
    Have *make* fill the directory *target* unless it is there; with *again* in any case.

    Raises:
        ImageError: it failed; nothing half made is left, and an older layer stands as it was.
    """
    if target.exists() and not again:
        return
    progress(f"{what}: making")
    started = time.monotonic()
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        make(new)
        new.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        new.rename(target)
    except (OSError, InstallError) as error:
        text = f"{what}: {error}"
        raise ImageError(text) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    progress(f"{what}: made in {time.monotonic() - started:.1f} s")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # Two builders of the same layer would do the work twice; the second one finds it made.
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(layers: Path, keep: set[Path]) -> None:
    # Layers of older recipes, and what a killed build left: both can be made again, and each is up to a gigabyte.
    # Images stay: a frozen parent may stand on one.
    for path in (*layers.iterdir(), *layers.parent.glob(".new-*")):
        if path not in keep:
            shutil.rmtree(path)


def _hash_binary(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

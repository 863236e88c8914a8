"""A directory as a disk: an ext4 filesystem without partition table, as qcow2."""

from pathlib import Path

from guest.image.recipe import DISK_BYTES, DISK_UUID, EPOCH
from guest.image.shell import run

# No journal: every user of this disk writes to an overlay that is thrown away, and an idle journal still writes.
FEATURES = "^has_journal,^metadata_csum,^resize_inode"


def make_disk(root: Path, disk: Path) -> None:
    """Write *root* as the filesystem of the new image *disk*."""
    raw = disk.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(DISK_BYTES)
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), "-L", "forkyard", "-m", "0", "-N", "65536"]
    argv += ["-O", FEATURES, "-U", DISK_UUID, "-E", f"hash_seed={DISK_UUID},lazy_itable_init=0"]
    run([*argv, raw], env={"E2FSPROGS_FAKE_TIME": str(EPOCH)})
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])
    raw.unlink()

"""
The stage: the Debian base made into our guest, with Consul and the game's container in it, but without the agent.

The container is loaded and created by the guest's own Docker in a chroot, so that the first boot already has it and
no slow boot is needed to put it there. That daemon has its own mounts, network and processes, and dies with them.
"""

import json
import shutil
from pathlib import Path

from guest.image.container import TAG, check_runs, container_files, write_container_image
from guest.image.initrd import render_initrd
from guest.image.shell import run

FILES = Path(__file__).parent / "files"

MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *(
        "systemd-tmpfiles-clean.timer",
        "getty.target",
        "getty@.service",
        "serial-getty@.service",
        "console-getty.service",
    ),
    *("systemd-logind.service", "systemd-pstore.service", "systemd-random-seed.service", "systemd-update-utmp.service"),
    *(
        "systemd-update-utmp-runlevel.service",
        "systemd-rfkill.service",
        "systemd-rfkill.socket",
        "systemd-binfmt.service",
    ),
    *(
        "systemd-hwdb-update.service",
        "systemd-update-done.service",
        "systemd-sysusers.service",
        "systemd-firstboot.service",
    ),
    *("systemd-journal-flush.service", "systemd-journal-catalog-update.service", "systemd-machine-id-commit.service"),
    *("systemd-remount-fs.service", "systemd-networkd-wait-online.service", "systemd-boot-system-token.service"),
    *("systemd-user-sessions.service", "systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
    *("proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "remote-fs.target"),
    *("modprobe@drm.service", "modprobe@fuse.service", "modprobe@configfs.service", "modprobe@efi_pstore.service"),
    *("systemd-networkd.socket", "ldconfig.service", "blk-availability.service", "remote-cryptsetup.target"),
)

# Started by hand in a parent that wants it; its host keys are an identity point and none are in the image.
DISABLED = ("ssh.service",)
ENABLED = ("systemd-networkd.service",)

CREATE = (
    *("docker", "create", "--name", "game", "--hostname", "game", "--restart", "always", "--publish", "8080:8080"),
    *("--volume", "/run/forkyard:/run/forkyard:ro", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--label", "forkyard.app=true"),
    *("--env", "SERVICE_NAME=game", "--env", "SERVICE_TAGS=nodejs,forkyard"),
    *("--env", "SERVICE_8080_CHECK_HTTP=/healthz", "--env", "SERVICE_8080_CHECK_INTERVAL=5s"),
    *("--env", "SERVICE_8080_CHECK_TIMEOUT=5s", TAG),
)

MOUNT = """
set -e
mount --make-rprivate /
# Docker unpacks layers behind a remounted "/", which therefore has to be a mount.
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t sysfs sysfs "$0/sys"
mount -t cgroup2 cgroup2 "$0/sys/fs/cgroup" || true
mount -t tmpfs tmpfs "$0/run"
mount -t tmpfs tmpfs "$0/tmp"
mount -t devtmpfs dev "$0/dev"
cp "$1" "$0/tmp/game.tar"
ip link set lo up 2>/dev/null || true
exec chroot "$0" /bin/sh -ec "$2"
"""

PROVISION = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/forkyard
dockerd --host unix:///run/docker.sock --exec-root /run/docker --pidfile /run/dockerd.pid \
  --bridge none --iptables=false --ip-forward=false >/tmp/dockerd.log 2>&1 &
for _ in $(seq 1200); do
  [ -S /run/docker.sock ] && docker version >/dev/null 2>&1 && break
  kill -0 $! 2>/dev/null || break
  sleep 0.1
done
docker version >/dev/null || {{ tail -n 5 /tmp/dockerd.log >&2; exit 1; }}
docker load --quiet --input /tmp/game.tar
{create}
kill $(cat /run/dockerd.pid)
wait
"""


def make_stage(stage: Path, *, base: Path, consul: Path, node: Path, game: Path) -> None:
    """Fill the empty directory *stage* with root/, vmlinuz and initrd.img."""
    root = stage / "root"
    root.mkdir()
    run(["tar", "--extract", "--file", base, "--directory", root, "--numeric-owner", "--xattrs"])
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, stage / "vmlinuz")
    (stage / "initrd.img").write_bytes(render_initrd(root))
    configure(root)
    shutil.copyfile(consul, root / "usr/bin/consul")
    (root / "usr/bin/consul").chmod(0o755)
    put_container(root, stage / "game.tar", container_files(root, node, game))
    for left in (*(root / "boot").iterdir(), root / "initrd.img", root / "vmlinuz"):
        left.unlink(missing_ok=True)


def configure(root: Path) -> None:
    """Make a plain Debian root quick to boot, quiet when idle, and nobody in particular."""
    for file in sorted(FILES.rglob("*")):
        target = root / file.relative_to(FILES)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            shutil.copyfile(file, target)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    run(["systemctl", f"--root={root}", "--quiet", "disable", *DISABLED])
    run(["systemctl", f"--root={root}", "--quiet", "enable", *ENABLED])
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # Not empty: systemd would take an empty one for a first boot and go through all presets.
    (root / "etc/machine-id").write_text("f04c7a4d000040008000000000000001\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")


def put_container(root: Path, tar: Path, files: dict[str, Path]) -> None:
    """Load the game's image into the root's Docker and create its container."""
    write_container_image(tar, files)
    check_runs(tar)
    script = PROVISION.format(create=" ".join(CREATE))
    spaces = ["unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
    run([*spaces, "sh", "-ec", MOUNT, root, tar, script])
    tar.unlink()
    # Docker starts after a boot only what ran before. It also makes its own network, with a bridge.
    (config,) = (root / "var/lib/docker/containers").glob("*/config.v2.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "HasBeenStartedBefore": True}))
    (root / "var/lib/docker/network/files/local-kv.db").unlink(missing_ok=True)

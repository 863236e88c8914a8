"""
Put the agent into a system: the one that runs, or one below a root directory that will be a disk.

Everything goes to /opt/forkyard, /etc/forkyard and systemd's directories; no package of the system's
is replaced. The same again brings everything up to date.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import guest.agent
from forkyard import wire
from guest.install.distribution import OLDEST_PYTHON, Distribution, InstallError, find_distribution, find_python

FILES = Path(__file__).parent / "files"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
HOME = "opt/forkyard"
CONSUL_PLACES = ("usr/bin/consul", "usr/local/bin/consul")
NETWORKD = "etc/systemd/network"
UNITS = ("forkyard-agent.service", "forkyard-consul.service")
DOCSTRING_ONLY = '"""The part of forkyard that a guest shares with its host."""\n'

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AppHooks:
    """What agent.toml says of the app; see guest.agent.settings.AppSettings."""

    container: str = "game"
    port: int = 8080
    warm: str = "/warm"


def install_agent(
    root: Path,
    *,
    consul: Path | None = None,
    wheels: Path | None = None,
    app: AppHooks | None = None,
    interface: str = "eth0",
    channel: str = f"virtio:{wire.PORT_NAME}",
    progress: Progress = lambda _text: None,
) -> None:
    """
    Install the agent, its libraries and a Consul agent below *root*, enabled at boot.

    *channel* is how the host is heard: the default under QEMU, `guestinfo` under vSphere. Where systemd-networkd
    is (as in Photon OS) it is told to leave *interface* alone: it would take the child's address away again.
    *consul* is Consul's program; None takes the one that is in *root* already. *wheels* is a directory to
    take the libraries from; None takes them from this machine's package index. With *root* other than /
    nothing is run in there but its own Python, to compile what was installed.

    Raises:
        InstallError: the system there is not one that we know, its Python is too old, or a step failed.
    """
    distribution = find_distribution(root)
    python = _require_python(root, distribution, progress)
    progress(f"{root}: {distribution.id} {distribution.version}, Python {python[0]}.{python[1]}")
    copy_agent(root)
    progress("the agent's libraries")
    install_libraries(root / HOME / "site-packages", python, wheels)
    progress("Consul, units and configuration")
    _put_consul(root, consul)
    install_units(root)
    _write(root / "etc/forkyard/agent.toml", render_config(app or AppHooks(), interface, channel))
    if (root / NETWORKD).is_dir():
        _write(root / NETWORKD / "05-forkyard.network", render_unmanaged(interface))
    _copy(FILES / "forkyard.conf", root / "etc/tmpfiles.d/forkyard-agent.conf", 0o644)
    progress("compiling")
    _compile(root, python)


def copy_agent(root: Path) -> None:
    """Copy our own modules: the agent, and the one that it shares with the host."""
    home = root / HOME
    for package in ("forkyard", "guest"):
        shutil.rmtree(home / package, ignore_errors=True)
    _write(home / "forkyard/__init__.py", DOCSTRING_ONLY)
    _copy(Path(wire.__file__), home / "forkyard/wire.py", 0o644)
    _write(home / "guest/__init__.py", '"""What runs inside a VM."""\n')
    for source in sorted(Path(guest.agent.__file__).parent.glob("*.py")):
        _copy(source, home / "guest/agent" / source.name, 0o644)


def install_libraries(target: Path, python: tuple[int, int], wheels: Path | None) -> None:
    """Fill *target* with the libraries of requirements.txt, as wheels for *python*."""
    shutil.rmtree(target, ignore_errors=True)
    offline = ["--no-index", "--find-links", str(wheels)] if wheels else []
    _run([*_installer(python), "--target", str(target), "-r", str(REQUIREMENTS), *offline])
    shutil.rmtree(target / "bin", ignore_errors=True)


def _installer(python: tuple[int, int]) -> list[str]:
    """The command that installs wheels for *python*: uv where it is, else pip of the Python that runs us."""
    version = f"{python[0]}.{python[1]}"
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv:
        return [uv, "pip", "install", "--quiet", "--python-version", version, "--only-binary", ":all:"]
    probe = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if probe.returncode:
        text = f"neither uv nor pip is here to install the agent's libraries: {sys.executable} -m pip does not run."
        raise InstallError(text)
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--root-user-action", "ignore", "--python-version", version, "--only-binary", ":all:"),
    ]


def _put_consul(root: Path, consul: Path | None) -> None:
    target = root / HOME / "bin/consul"
    if consul is not None:
        _copy(consul, target, 0o755)
        return
    found = [place for place in CONSUL_PLACES if (root / place).is_file()]
    if not found:
        text = f"{root}: no Consul in {', '.join(CONSUL_PLACES)}. Install it there, or say where its program is."
        raise InstallError(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(f"/{found[0]}")


def install_units(root: Path) -> None:
    """Put the systemd units in their place and enable them, as `systemctl enable` would."""
    units = root / "etc/systemd/system"
    for name in UNITS:
        _copy(FILES / name, units / name, 0o644)
        wanted = units / "multi-user.target.wants" / name
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(f"/etc/systemd/system/{name}")


def render_config(app: AppHooks, interface: str, channel: str = f"virtio:{wire.PORT_NAME}") -> str:
    """The text of agent.toml."""
    return (
        f'interface = "{interface}"\nchannel = "{channel}"\n\n'
        f'[app]\ncontainer = "{app.container}"\nport = {app.port}\nwarm = "{app.warm}"\n\n'
        f'[consul]\nbinary = "/{HOME}/bin/consul"\n'
    )


def choose_channel(root: Path) -> str:
    """How the host is heard where nobody says: by guestinfo in the running guest of a vSphere, else by virtio."""
    vendor = Path("/sys/class/dmi/id/sys_vendor")
    if root == Path("/") and vendor.exists() and vendor.read_text().startswith("VMware"):
        return "guestinfo"
    return f"virtio:{wire.PORT_NAME}"


def render_unmanaged(interface: str) -> str:
    """
    The text of a systemd.network(5) file that keeps systemd-networkd off the device; the agent sets it up.

    It holds from the next boot on. Told at once, networkd would cut the connection of whoever installs.
    """
    return f"# Written by forkyard's installer.\n[Match]\nName={interface}\n\n[Link]\nUnmanaged=yes\n"


def start_now(progress: Progress) -> None:
    """Start the units of the running system."""
    progress("starting")
    _run(["systemd-tmpfiles", "--create", "forkyard-agent.conf"])
    _run(["systemctl", "daemon-reload"])
    _run(["systemctl", "restart", *UNITS])


def _require_python(root: Path, distribution: Distribution, progress: Progress) -> tuple[int, int]:
    if find_python(root) is None and root == Path("/"):
        progress(f"installing {', '.join(distribution.python)}")
        _run([*distribution.install, *distribution.python], {"DEBIAN_FRONTEND": "noninteractive"})
    python = find_python(root)
    if python is None:
        text = f"{root}: no python3 there. Install {distribution.python[0]} in it first."
        raise InstallError(text)
    if python < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        text = (
            f"{root}: {distribution.id} {distribution.version} has Python {python[0]}.{python[1]}; the agent needs "
            f"{wanted} or newer. Debian 12, Ubuntu 24.04 and Photon OS 5 have one."
        )
        raise InstallError(text)
    return python


def _compile(root: Path, python: tuple[int, int]) -> None:
    """Write bytecode that is never checked against its source: a guest's disk may be read-only and its clock wrong."""
    options = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    if root == Path("/"):
        _run(["/usr/bin/python3", *options, f"/{HOME}"])
    elif os.geteuid() == 0:
        _run(["chroot", str(root), "/usr/bin/python3", *options, f"/{HOME}"])
    elif python == sys.version_info[:2]:
        _run([sys.executable, *options, "-s", str(root), "-p", "/", str(root / HOME)])


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    # Libraries may not find their place by our own interpreter's settings.
    with tempfile.TemporaryFile() as output:
        full = {**os.environ, **(environment or {})}  # noqa: TID251 - package tools are configured by it
        try:
            done = subprocess.run(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=full, check=False
            )
        except FileNotFoundError as error:
            text = f"{command[0]} is not installed"
            raise InstallError(text) from error
        if done.returncode:
            output.seek(0)
            words = output.read().decode(errors="replace").strip().splitlines()[-5:]
            text = f"{' '.join(command[:4])} … failed: {' / '.join(words)}"
            raise InstallError(text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


def _copy(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        text = f"{source}: not there"
        raise InstallError(text)
    # A program that runs cannot be written over, but it can be replaced.
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, fresh)
    fresh.chmod(mode)
    fresh.rename(target)

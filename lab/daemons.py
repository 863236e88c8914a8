"""The lab's daemons: which process is whose, remembered in pid files; and calls made from inside the namespace."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from forkyard.processes import ProcessRef, find_process, is_alive, parse_ref, spawn

T = TypeVar("T")

NAMESPACES = Path("/run/netns")


# Without clobbering: the starter moves a file with the same words to the same place, which must not be emptied again.
_RECORD = """
set -C
{
    read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ </proc/$$/stat
    echo "$$ $started" >"$0"
} 2>/dev/null
exec "$@"
"""


def start_daemon(
    pid: Path,
    argv: Sequence[str],
    *,
    log: Path,
    namespace: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> ProcessRef:
    """
    Start *argv* as `spawn` does, remembered in the file *pid*.

    The process writes itself down before it becomes the program: one whose starter is killed at that moment would
    be known to nobody, and keep its port and its address for ever.
    """
    pid.parent.mkdir(parents=True, exist_ok=True)
    pid.unlink(missing_ok=True)
    recorded = ["sh", "-c", _RECORD, str(pid), *argv]
    ref = spawn(recorded, log=log, namespace=namespace, env=env, pass_fds=pass_fds)
    write_ref(pid, ref)
    return ref


def write_ref(path: Path, ref: ProcessRef) -> None:
    """Remember the process; all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(f"{ref}\n")
    fresh.replace(path)


def read_ref(path: Path) -> ProcessRef | None:
    """The remembered process if this very one still runs."""
    try:
        ref = parse_ref(path.read_text())
    except FileNotFoundError:
        return None
    return ref if ref is not None and is_alive(ref) else None


def list_inside(namespace: str, name: str) -> list[ProcessRef]:
    """The living processes of a program's name in the namespace, whoever started them."""
    try:
        inside = f"net:[{(NAMESPACES / namespace).stat().st_ino}]"
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fits = (entry / "comm").read_text().strip() == name and str((entry / "ns/net").readlink()) == inside
        except OSError:
            continue  # it ended while we looked
        ref = find_process(int(entry.name)) if fits else None
        if ref is not None:
            found.append(ref)
    return found


def call_inside(namespace: str, function: Callable[[], T]) -> T:
    """
    Call *function* with the sockets that it opens belonging to the namespace.

    In a thread of its own that ends afterwards: a network namespace is a thread's property on Linux.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in-{namespace}") as pool:
        return pool.submit(_entered, namespace, function).result()


def _entered(namespace: str, function: Callable[[], T]) -> T:
    netns.setns(namespace)
    return function()

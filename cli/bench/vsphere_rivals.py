"""
The benches `vsphere-ansible` and `vsphere-govc`: 100 children by others' clients and by us, at one vCenter.

The others only clone: their children get no identity, are verified by nobody and stand in no load balancer, while
ours are, and are timed until all of that is done. Ansible comes from this machine's Python package index, into an
environment of its own below the cache; govc is built of the same sources as the vCenter.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.bench import Context, Json, Run
from cli.bench.parts import SERVICE, require_room, scale_to
from cli.bench.vsphere import DELAYS, require_vcenter, set_rules
from forkyard.errors import PermanentError, Unavailable
from lab.vsphere import DATACENTER, DATASTORE, FOLDER, POOL, Door
from lab.vsphere_build import build_govc

CHILDREN = 100
GOVC_PARALLEL = 16
ANSIBLE = "ansible==12.3.0"
ANSIBLE_FORKS = 16
_CALL_SECONDS = 120
_PLAY_SECONDS = 3600

_PLAY = """\
- hosts: all
  gather_facts: false
  connection: local
  tasks:
    - community.vmware.vmware_guest_instant_clone:
        hostname: 127.0.0.1
        port: {port}
        username: {user}
        password: {password}
        validate_certs: false
        datacenter: {datacenter}
        datastore: {datastore}
        folder: /{datacenter}/vm/{folder}
        resource_pool: {pool}
        host: "{{{{ esx }}}}"
        parent_vm: "{service}-parent-{{{{ esx }}}}"
        name: "{{{{ inventory_hostname }}}}"
"""


def measure_ansible(context: Context) -> Sequence[Run]:
    """Ansible's module, then ours, in each run."""
    ansible = find_ansible(context)
    hosts = context.settings.lab.hosts
    what = f"Ansible, {ANSIBLE_FORKS} at once"
    return _measure(context, "ansible", what, lambda door: _time_ansible(door, ansible, hosts))


def measure_govc(context: Context) -> Sequence[Run]:
    """A loop of govc, then ours, in each run."""
    govc = build_govc(context.settings.cache_dir)
    hosts = context.settings.lab.hosts
    what = f"govc, {GOVC_PARALLEL} at once"
    return _measure(context, "govc", what, lambda door: _time_govc(door, govc, hosts))


def _measure(context: Context, prefix: str, what: str, rival: Callable[[Door], float]) -> Sequence[Run]:
    require_room(context, CHILDREN)
    door = require_vcenter(context)
    return [_once(context, door, prefix, what, rival) for _ in range(context.runs)]


def _once(context: Context, door: Door, prefix: str, what: str, rival: Callable[[Door], float]) -> Run:
    scale_to(context, 0)
    set_rules(door, delays=DELAYS)
    try:
        context.say(f"{CHILDREN} children by {what}")
        theirs = rival(door)
        ours = scale_to(context, CHILDREN)
    finally:
        set_rules(door)
        _destroy(door, build_govc(context.settings.cache_dir), _names(prefix))
    seconds = float(str(ours["seconds"]))
    scale_to(context, 0)
    details: Json = {
        "ours_seconds": seconds,
        "ours_run_seconds": ours["run_seconds"],
        "theirs_seconds": round(theirs, 3),
    }
    return Run(theirs / seconds, details)


def find_ansible(context: Context) -> Path:
    """Where `ansible-playbook` is, installed when it is not in the cache; raises Unavailable."""
    home = context.settings.cache_dir / ANSIBLE.replace("==", "-")
    playbook = home / "bin" / "ansible-playbook"
    if not playbook.exists():
        context.say(f"installing {ANSIBLE} into {home}")
        _must([sys.executable, "-m", "venv", str(home)])
        _must([str(home / "bin" / "pip"), "install", "-q", ANSIBLE, "pyvmomi", "requests"])
    return playbook


def _must(command: Sequence[str]) -> None:
    done = subprocess.run(list(command), capture_output=True, text=True, timeout=_PLAY_SECONDS, check=False)
    if done.returncode:
        text = f"{' '.join(command[:4])} failed: {done.stderr.strip()[-400:]}"
        raise Unavailable(text)


def _names(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(CHILDREN)]


def _esx(hosts: int, number: int) -> str:
    return f"esx-{number % hosts + 1:02d}"


def _time_govc(door: Door, govc: Path, hosts: int) -> float:
    def clone(number: int) -> None:
        parent = f"{SERVICE}-parent-{_esx(hosts, number)}"
        _govc(door, govc, "vm.instantclone", "-vm", parent, f"govc-{number}")

    begun = time.monotonic()
    with ThreadPoolExecutor(GOVC_PARALLEL) as pool:
        list(pool.map(clone, range(CHILDREN)))
    return time.monotonic() - begun


def _destroy(door: Door, govc: Path, names: Sequence[str]) -> None:
    present = [path.rpartition("/")[2] for path in _govc(door, govc, "find", "/", "-type", "m").splitlines()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: _govc(door, govc, "vm.destroy", name), sorted(set(names) & set(present))))


def _govc(door: Door, govc: Path, *words: str) -> str:
    environment = {
        "GOVC_URL": door.url,
        "GOVC_USERNAME": door.user,
        "GOVC_PASSWORD": door.password,
        "GOVC_INSECURE": "1",
        # A session kept on disk would spare it the login that a script's every call makes.
        "GOVC_PERSIST_SESSION": "false",
    }
    done = subprocess.run(
        [str(govc), *words], capture_output=True, text=True, timeout=_CALL_SECONDS, check=False, env=environment
    )
    if done.returncode:
        text = f"govc {words[0]}: {done.stderr.strip()}"
        raise PermanentError(text)
    return done.stdout


def _time_ansible(door: Door, ansible: Path, hosts: int) -> float:
    with TemporaryDirectory(prefix="forkyard-bench-") as made:
        play, inventory = Path(made) / "play.yml", Path(made) / "hosts.ini"
        play.write_text(
            _PLAY.format(
                port=door.port,
                user=door.user,
                password=door.password,
                datacenter=DATACENTER,
                datastore=DATASTORE,
                folder=FOLDER,
                pool=POOL,
                service=SERVICE,
            )
        )
        python = ansible.with_name("python")
        lines = [
            f"{name} esx={_esx(hosts, number)} ansible_python_interpreter={python}"
            for number, name in enumerate(_names("ansible"))
        ]
        inventory.write_text("\n".join(lines))
        begun = time.monotonic()
        done = subprocess.run(
            [str(ansible), "-i", str(inventory), "-f", str(ANSIBLE_FORKS), str(play)],
            capture_output=True,
            text=True,
            timeout=_PLAY_SECONDS,
            check=False,
            cwd=made,
        )
        seconds = time.monotonic() - begun
    if done.returncode:
        text = f"ansible-playbook failed: {(done.stdout + done.stderr).strip()[-600:]}"
        raise PermanentError(text)
    return seconds

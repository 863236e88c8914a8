"""The installer: what it puts where, and what it refuses."""

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from guest.agent.settings import load_settings
from guest.install import AppHooks, InstallError, install_agent
from guest.install.__main__ import main
from guest.install.distribution import find_distribution, find_python
from guest.install.installer import FILES, REQUIREMENTS, UNITS, copy_agent, install_units

PROJECT = Path(__file__).parents[2]
SYSTEMS = {
    "debian": 'ID=debian\nVERSION_ID="12"\n',
    "ubuntu": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    "photon": 'ID=photon\nVERSION_ID=5.0\nPRETTY_NAME="VMware Photon OS/Linux"\n',
}


def make_root(root: Path, os_release: str = SYSTEMS["debian"], python: str = "3.11") -> Path:
    """As much of a system as the installer looks at."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(os_release)
    (root / f"usr/lib/python{python}").mkdir(parents=True)
    return root


@pytest.mark.parametrize(("name", "command"), [("debian", "apt-get"), ("ubuntu", "apt-get"), ("photon", "tdnf")])
def test_each_system_is_known_with_its_package_manager(tmp_path: Path, name: str, command: str) -> None:
    found = find_distribution(make_root(tmp_path, SYSTEMS[name]))
    assert (found.id, found.install[0]) == (name, command)


def test_a_system_like_a_known_one_is_taken_as_that(tmp_path: Path) -> None:
    root = make_root(tmp_path, 'ID=raspbian\nID_LIKE="debian"\nVERSION_ID="12"\n')
    assert find_distribution(root).install[0] == "apt-get"


def test_an_unknown_system_is_named_and_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path, "ID=plan9\n")
    with pytest.raises(InstallError, match=r"plan9 is not a system that the agent knows \(debian, ubuntu, photon\)"):
        install_agent(root)


def test_a_directory_that_is_no_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"no etc/os-release there"):
        install_agent(tmp_path)


def test_a_python_that_is_too_old_is_refused_with_what_would_do(tmp_path: Path) -> None:
    root = make_root(tmp_path, 'ID=ubuntu\nVERSION_ID="22.04"\n', python="3.10")
    with pytest.raises(InstallError, match=r"Python 3\.10; the agent needs 3\.11 or newer.*Ubuntu 24\.04"):
        install_agent(root)


def test_a_system_without_python_says_what_to_install(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "usr/lib/python3.11").rmdir()
    with pytest.raises(InstallError, match=r"no python3 there\. Install python3 in it first"):
        install_agent(root)


def test_the_newest_python_counts(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "usr/lib/python3.9").mkdir()
    assert find_python(root) == (3, 11)


def test_the_copied_agent_runs_from_its_place_with_nothing_of_the_projects(tmp_path: Path) -> None:
    copy_agent(tmp_path)
    code = "import guest.agent.agent, forkyard.wire as w; print(w.__file__)"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    env = {"PYTHONPATH": f"{tmp_path}/opt/forkyard:{site}", "PATH": os.defpath}
    found = subprocess.run([sys.executable, "-S", "-c", code], env=env, cwd="/", capture_output=True, check=True)
    assert found.stdout.decode().strip() == f"{tmp_path}/opt/forkyard/forkyard/wire.py"


def test_units_are_enabled_and_start_consul_at_the_gate(tmp_path: Path) -> None:
    install_units(tmp_path)
    wanted = tmp_path / "etc/systemd/system/multi-user.target.wants"
    assert sorted(path.name for path in wanted.iterdir()) == sorted(UNITS)
    text = (tmp_path / "etc/systemd/system/forkyard-consul.service").read_text()
    assert (
        "-config-file=/run/forkyard-agent/consul/gate.hcl -config-file=/run/forkyard-agent/consul/consul.json" in text
    )


def test_the_agent_may_speak_to_the_hypervisor_from_a_port_that_only_root_has() -> None:
    lines = (FILES / "forkyard-agent.service").read_text().splitlines()
    (bounds,) = (line for line in lines if line.startswith("CapabilityBoundingSet="))
    assert "CAP_NET_BIND_SERVICE" in bounds.partition("=")[2].split()


def test_units_are_what_systemd_understands(tmp_path: Path) -> None:
    for name in UNITS:
        text = (FILES / name).read_text().replace("/opt/forkyard/bin/consul", "/bin/true")
        (tmp_path / name).write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        check=False,
    )
    problems = [line for line in found.stderr.decode().splitlines() if "forkyard-" in line and "docker" not in line]
    assert problems == []


def test_a_whole_installation_has_libraries_consul_and_a_configuration_that_the_agent_reads(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", python=f"{sys.version_info[0]}.{sys.version_info[1]}")
    _borrow_python(root)
    consul = tmp_path / "consul"
    consul.write_text("#!/bin/sh\n")
    said: list[str] = []
    install_agent(root, consul=consul, app=AppHooks("web", 3000, "/warm"), interface="ens192", progress=said.append)
    home = root / "opt/forkyard"
    assert {"docker", "consul", "pyroute2", "cryptography"} <= {p.name for p in (home / "site-packages").iterdir()}
    assert stat.S_IMODE((home / "bin/consul").stat().st_mode) == 0o755
    settings = load_settings(root / "etc/forkyard/agent.toml")
    assert (settings.app.container, settings.app.port, settings.interface) == ("web", 3000, "ens192")
    assert tomllib.loads((root / "etc/forkyard/agent.toml").read_text())["consul"] == {
        "binary": "/opt/forkyard/bin/consul"
    }
    assert list((home / "guest/agent/__pycache__").glob("agent.*.pyc"))
    assert any("Python" in line for line in said)


def _borrow_python(root: Path) -> None:
    """A `python3` for the chroot: only what starting one needs would be a system; a static busybox script will do."""
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/sh").chmod(0o755)
    fake = root / "usr/bin/python3"
    fake.write_text(
        "#!/bin/sh\nfor a; do c=$a/guest/agent/__pycache__; done\nmkdir -p $c && : > $c/agent.cpython-311.pyc\n"
    )
    fake.chmod(0o755)


def test_a_consul_that_is_in_the_system_is_taken_from_there(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    _borrow_python(root)
    (root / "usr/bin/consul").write_text("")
    install_agent(root)
    assert (root / "opt/forkyard/bin/consul").readlink() == Path("/usr/bin/consul")


def test_a_system_without_consul_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="no Consul in usr/bin/consul, usr/local/bin/consul"):
        install_agent(make_root(tmp_path))


def test_wheels_that_are_not_there_are_said(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(InstallError, match="failed"):
        install_agent(make_root(tmp_path / "root"), wheels=tmp_path / "wheels")


def test_the_command_ends_with_two_for_what_the_person_can_mend(tmp_path: Path) -> None:
    assert main(["--root", str(tmp_path), "--container", "game", "--port", "8080"]) == 2


def test_the_guests_libraries_are_the_locked_ones() -> None:
    locked = tomllib.loads((PROJECT / "uv.lock").read_text())["package"]
    versions = {package["name"]: package["version"] for package in locked if "version" in package}
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert {line: versions[line.split("==")[0]] for line in lines} == {line: line.split("==")[1] for line in lines}

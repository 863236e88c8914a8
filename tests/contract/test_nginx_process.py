"""Which nginx is ours: more than one may run on a host, and a pid file outlives a reboot."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from forkyard.balancer.nginx_process import NginxProcess
from forkyard.errors import Unavailable
from forkyard.processes import end, is_alive, spawn
from forkyard.settings import NginxSettings
from forkyard.waiting import wait_for
from lab.nginx import stop_nginx

SOON = timedelta(seconds=20)
_CONF = "pid nginx.pid; error_log error.log warn; events {}"


@contextmanager
def _running(directory: Path, *options: str) -> Iterator[int]:
    """Run an nginx of the directory's own that serves nothing; give its master's process id."""
    directory.mkdir()
    (directory / "nginx.conf").write_text(_CONF)
    ref = spawn(["nginx", *options, "-g", "daemon off;"], log=directory / "start.log")
    try:
        wait_for(lambda: (directory / "nginx.pid").exists() or None, what="the pid file", timeout=SOON)
        yield ref.pid
        assert is_alive(ref)
    finally:
        end(ref, timeout=SOON)


def _process(directory: Path) -> NginxProcess:
    return NginxProcess("nginx", directory, None)


@pytest.mark.parametrize("how", ["-p {0}/ -c {0}/nginx.conf", "-p {0} -c nginx.conf", "-p{0}/ -c{0}/nginx.conf"])
def test_an_nginx_that_was_started_for_the_directory_is_its_master(tmp_path: Path, how: str) -> None:
    home = tmp_path / "nginx"
    with _running(home, *how.format(home).split()) as pid:
        assert _process(home).master() == pid
        _process(home).reload()


def test_another_nginx_under_a_stale_number_is_neither_master_nor_reloaded_nor_ended(tmp_path: Path) -> None:
    home, other = tmp_path / "nginx", tmp_path / "nginx-of-the-host"
    home.mkdir()
    with _running(other, "-p", f"{other}/", "-c", f"{other}/nginx.conf") as pid:
        (home / "nginx.pid").write_text(f"{pid}\n")
        for call in (_process(home).master, _process(home).reload, _process(home).check):
            with pytest.raises(Unavailable, match=rf"process {pid} .* another nginx.*-p {home}/"):
                call()
        stop_nginx(NginxSettings(binary="nginx", directory=home, namespace=None))

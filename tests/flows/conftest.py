"""A pretended world and a real Prefect, as the lab starts it, for the flows' tests."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from forkyard.settings import (
    ConsulSettings,
    LabSettings,
    NginxSettings,
    PrefectSettings,
    ServiceSettings,
    Settings,
)
from lab.prefect import start_prefect, stop_prefect
from tests.flows.yard import Yard, make_yard


@pytest.fixture(scope="package")
def prefect_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One real Prefect for all tests, as `forkyard lab up` starts it: its server's first start takes 20 s of CPU."""
    settings = make_lab(tmp_path_factory.mktemp("prefect"))
    with running_prefect(settings):
        yield settings


def make_lab(home: Path) -> Settings:
    """Settings of a Prefect below *home*, where their forkyard.toml is too."""
    port = find_free_port()
    settings = Settings(
        state_dir=home / "state",
        run_dir=home / "run",
        prefect=PrefectSettings(api_url=f"http://127.0.0.1:{port}/api"),
        lab=LabSettings(prefect_port=port),
        services={"game": ServiceSettings()},
        consul=ConsulSettings(url="http://127.0.0.1:1"),
        nginx=NginxSettings(url="http://127.0.0.1:1", directory=home / "nginx", namespace=None),
    )
    (home / "forkyard.toml").write_text(
        f'state_dir = "{settings.state_dir}"\nrun_dir = "{settings.run_dir}"\n'
        f'[prefect]\napi_url = "{settings.prefect.api_url}"\n[lab]\nprefect_port = {port}\n[services.game]\n'
        # No run of the tests' may reach a lab that is up beside them.
        f'[consul]\nurl = "{settings.consul.url}"\n[nginx]\nurl = "{settings.nginx.url}"\nnamespace = ""\n'
        f'directory = "{home}/nginx"\n[qemu]\nnamespace = ""\n'
    )
    return settings


@contextmanager
def running_prefect(settings: Settings) -> Iterator[None]:
    """Run the server, and a runner of the flows."""
    with ExitStack() as stack:
        stack.callback(stop_prefect, settings)
        start_prefect(settings, settings.state_dir.with_name("forkyard.toml"))
        yield


@pytest.fixture
def prefect_server(prefect_lab: Settings, tmp_path: Path) -> Iterator[str]:
    """Let flows in this process use that server; its API's address."""
    url = prefect_lab.prefect.api_url
    with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: tmp_path}):
        yield url


@pytest.fixture
def yard() -> Yard:
    """A world with one frozen parent and no child."""
    return make_yard()


def find_free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
        return number

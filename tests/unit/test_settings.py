"""What forkyard.toml may say, and what is said of one that is wrong."""

from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from forkyard.errors import InvalidRequest
from forkyard.settings import (
    CONFIG_VARIABLE,
    DEPLOYMENT_CONFIG,
    ServiceSettings,
    Settings,
    find_config,
    load_settings,
    parse_settings,
)
from forkyard.toml_reader import find_line


def refusal(text: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_settings(text, source="my.toml")
    return str(caught.value)


def test_an_empty_file_is_all_defaults() -> None:
    assert parse_settings("") == Settings()


def test_the_deployments_file_says_every_default_as_it_is() -> None:
    # The text, not the file as it counts here: a lab that is up on this machine lays its own over it.
    assert parse_settings(DEPLOYMENT_CONFIG.read_text()) == Settings(services={"game": ServiceSettings()})


def test_every_kind_of_value_is_read() -> None:
    settings = parse_settings(
        """
        state_dir = "/srv/forkyard"
        qemu.gateway = "10.77.0.1"
        qemu.memory_share = 1
        nginx.namespace = ""
        consul.join = ["10.0.0.1"]
        services.shop = { maximum = 3, fork_timeout = "250ms", drain_timeout = 1.5, orphan_after = "1h" }
        """
    )
    shop = settings.services["shop"]
    assert settings.state_dir == Path("/srv/forkyard")
    assert settings.qemu.gateway == IPv4Address("10.77.0.1")
    assert settings.nginx.namespace is None
    assert settings.consul.join == ("10.0.0.1",)
    assert (shop.maximum, shop.fork_timeout) == (3, timedelta(milliseconds=250))
    assert (shop.drain_timeout, shop.orphan_after) == (timedelta(seconds=1.5), timedelta(hours=1))


def test_addresses_that_are_left_out_follow_the_labs_ports_and_others_stand() -> None:
    ports = "[lab]\nload_balancer_port = 1001\nconsul_port = 1002\nprefect_port = 1003\n"
    settings = parse_settings(f'{ports}[consul]\nurl = "http://consul.example:8500"\n')
    assert settings.nginx.url == "http://127.0.0.1:1001"
    assert settings.consul.url == "http://consul.example:8500"
    assert settings.prefect.api_url == "http://127.0.0.1:1003/api"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nstate_dirr = '/x'", "my.toml: line 2: state_dirr: no such key. Did you mean `state_dir`?"),
        (
            "[services.game]\n\nmaximun = 3",
            "my.toml: line 3: services.game.maximun: no such key. Did you mean `maximum`?",
        ),
        (
            "[services.game]\nmaximum = 'many'",
            'my.toml: line 2: services.game.maximum = "many": a whole number is wanted, without quotes.',
        ),
        (
            '[vsphere]\ncustomize = "tools"',
            'my.toml: line 2: vsphere.customize = "tools": needs vsphere.guest_user, who acts in the guest.',
        ),
        ("[services.game]\nmaximum = 0", "my.toml: line 2: services.game.maximum = 0: at least 1 is wanted."),
        (
            "[services.game]\nmaximum = true",
            "my.toml: line 2: services.game.maximum = true: a whole number is wanted, without quotes.",
        ),
        ("[services]\ngame = 3", "my.toml: line 2: services.game = 3: a table of keys is wanted."),
        ("qemu = 3", "my.toml: line 1: qemu = 3: a table of keys is wanted."),
        (
            "run_dir = 'run'",
            'my.toml: line 1: run_dir = "run": a path from the root is wanted, one that begins with /.',
        ),
        ("run_dir = 5", 'my.toml: line 1: run_dir = 5: a text in quotes is wanted, such as "5".'),
        (
            "qemu.accelerator = 'kmv'",
            'my.toml: line 1: qemu.accelerator = "kmv": one of auto, kvm, tcg is wanted, and kvm is the nearest.',
        ),
        ("[qemu]\nmemory_share = 2", "my.toml: line 2: qemu.memory_share = 2: more than 0 and at most 1 is wanted."),
        (
            "[qemu]\nfirst_address = '10.99.0.1'",
            'my.toml: line 2: qemu.first_address = "10.99.0.1": is outside of qemu.network, 10.77.0.0/22.',
        ),
        (
            "qemu = { network = '10.77.1.1/32' }",
            'my.toml: line 1: qemu.network = "10.77.1.1/32": is too small; a prefix length of at most 30 is wanted.',
        ),
        (
            "consul.join = '10.0.0.1'",
            'my.toml: line 1: consul.join = "10.0.0.1": a list is wanted, such as ["10.0.0.1"].',
        ),
        (
            "consul.lease_ttl = 3",
            "my.toml: line 1: consul.lease_ttl = 3: at least 10 and at most 86400 seconds is wanted.",
        ),
        ("[services.game]\nminimum = 20", "my.toml: line 2: services.game.minimum = 20: is above maximum, 16."),
        (
            "[services.Game]",
            (
                "my.toml: line 1: services.Game: is part of host names, so it is at most 40 lower-case letters, "
                "digits and hyphens, a letter first."
            ),
        ),
        (
            "[services.game]\nparent = '../..'",
            (
                'my.toml: line 2: services.game.parent = "../..": is no parent\'s name: letters, digits, dots, hyphens '
                "and underscores, at most 64, a letter or digit first."
            ),
        ),
        (
            "[services.game]\nparent = ''",
            (
                'my.toml: line 2: services.game.parent = "": is no parent\'s name: letters, digits, dots, hyphens '
                "and underscores, at most 64, a letter or digit first."
            ),
        ),
        (
            "[lab]\nconsul_port = 18080",
            "my.toml: line 1: lab: two of the ports are the same: load_balancer_port, consul_port.",
        ),
        ("a = 1\nb = = 2", "my.toml: line 2: this is not TOML: Invalid value, in: b = = 2"),
        ("[qemu\n", "my.toml: line 1: this is not TOML: Expected ']' at the end of a table declaration, in: [qemu"),
    ],
)
def test_a_problem_names_its_line_its_key_and_what_would_be_right(text: str, message: str) -> None:
    assert refusal(text) == message


_A_URL = 'an http or https URL is wanted, such as "http://127.0.0.1:8500"'
_ODD = "a finite number of at most 64 bits is wanted"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("consul.url", '"http://127.0.0.1:abc"', _A_URL),
        ("consul.url", '"http://127.0.0.1:99999"', _A_URL),
        ("consul.url", '"127.0.0.1:8500"', _A_URL),
        ("consul.url", '""', _A_URL),
        ("nginx.url", '"ftp://127.0.0.1"', _A_URL),
        ("nginx.url", '"http://"', _A_URL),
        ("prefect.api_url", '"http://a b/api"', _A_URL),
        (
            "vsphere.url",
            '"http://vcenter.example/sdk"',
            'an https URL is wanted, such as "https://vcenter.example/sdk", or "" for none',
        ),
        ("consul.join", "[]", 'at least one address is wanted, such as ["10.77.0.11"]'),
        (
            "consul.join",
            '["10.77.0.11", "nohost"]',
            'IPv4 addresses without a port are wanted, such as "10.77.0.11"',
        ),
        (
            "qemu.bridge",
            '"a-bridge-of-22-letters"',
            "a network device's name is wanted: at most 15 letters, digits, dots, hyphens and underscores",
        ),
        (
            "nginx.namespace",
            '"../x"',
            "a network namespace's name is wanted: letters, digits, dots, hyphens and underscores, no path",
        ),
        (
            "consul.datacenter",
            '"dc 1"',
            "a Consul datacenter's name is wanted: letters, digits, hyphens and underscores",
        ),
        ("qemu.memory_share", "nan", _ODD),
        ("qemu.memory_reserve", "99999999999999999999", _ODD),
        ("services.game.drain_timeout", "inf", _ODD),
        ("services.game.orphan_after", '"99999999999999h"', "a duration of at most 366 days is wanted"),
        ("services.game.drain_timeout", '"48h"', "more than 0 and at most 86400 seconds is wanted"),
    ],
)
def test_a_value_that_nobody_could_use_is_refused_before_it_is_used(key: str, value: str, wanted: str) -> None:
    assert refusal(f"{key} = {value}") == f"my.toml: line 1: {key} = {value}: {wanted}."


def test_a_rule_for_parents_of_vsphere_is_no_name_and_need_not_be() -> None:
    text = "vsphere.url = 'https://vc/sdk'\n[services.game]\nhypervisor = 'vsphere'\nparent = 'folder:/dc/vm/parents'"
    assert parse_settings(text).services["game"].parent == "folder:/dc/vm/parents"


def test_a_duration_that_is_none_is_explained() -> None:
    assert 'a duration is wanted: seconds as a number, or a text such as "30s" or "10m"' in refusal(
        "[services.game]\nfork_timeout = '3 parsecs'"
    )


def test_all_problems_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = "[services.game]\nmaximun = 3\nstep = 'x'\n[qemu]\nbridgee = 'b'\n"
    lines = refusal(text).splitlines()
    assert lines[0] == "my.toml: 3 problems"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["line 2", "line 3", "line 5"]


@pytest.mark.parametrize(
    ("source", "path", "line"),
    [
        ("a.b.c = 1", ("a", "b", "c"), 1),
        ("[a.b]\n# c = 0\nc = 1", ("a", "b", "c"), 3),
        ('[a."b"]\n"c" = 1', ("a", "b", "c"), 2),
        ("[a]\nb = { c = 1 }", ("a", "b", "c"), 2),
        ("x = 1", ("a",), None),
    ],
)
def test_a_key_is_found_in_its_file(source: str, path: tuple[str, ...], line: int | None) -> None:
    assert find_line(source, path) == line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.toml: cannot be read: No such file or directory"):
        load_settings(tmp_path / "none.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="it is not UTF-8"):
        load_settings(path)


def test_the_environment_names_the_file_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, "/from/environment")
    assert find_config() == Path("/from/environment")
    assert find_config(Path("/given")) == Path("/given")


def test_an_unknown_service_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match=r"shop: no such service in forkyard.toml. Known services: game."):
        load_settings(DEPLOYMENT_CONFIG).service("shop")

"""What a container becomes in Consul: Registrator's rules."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from guest.agent.containers import PREFIX, ContainerService, container_address, list_services

ADDRESS = "10.77.1.1"
META = {"fork_id": "f", "child": "game-1"}


def container(
    *,
    ports: dict[str, list[dict[str, str]] | None] | None = None,
    env: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    network: str = "bridge",
) -> dict[str, Any]:
    """As Docker's inspect has it, as far as anybody looks."""
    published = ports if ports is not None else {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}]}  # noqa: S104
    return {
        "Name": "/web",
        "Config": {
            "Image": "registry.test:5000/shop/web:1.2",
            "Env": list(env),
            "Labels": labels or {},
            "ExposedPorts": {name: {} for name in published},
        },
        "HostConfig": {"NetworkMode": network},
        "NetworkSettings": {"Ports": published, "Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
    }


def only(**what: Any) -> ContainerService:  # noqa: ANN401 - as container() has them
    """The one service of a container."""
    (service,) = list_services(container(**what), ADDRESS, META)
    return service


def test_a_published_port_is_registered_at_the_machines_address() -> None:
    service = only()
    assert (service.id, service.name, service.address, service.port) == (f"{PREFIX}web:8080", "web", ADDRESS, 80)
    assert service.meta == META


def test_a_port_that_is_not_published_is_not_registered() -> None:
    assert list_services(container(ports={"8080/tcp": None}), ADDRESS, META) == []


def test_a_port_published_on_loopback_alone_is_not_registered() -> None:
    found = container(ports={"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]})
    assert list_services(found, ADDRESS, META) == []


def test_a_port_published_for_both_address_families_is_registered_once() -> None:
    only(ports={"8080/tcp": [{"HostIp": "", "HostPort": "80"}, {"HostIp": "::", "HostPort": "80"}]})


def test_a_container_on_the_hosts_network_is_registered_with_its_exposed_ports() -> None:
    assert only(network="host", ports={"9000/tcp": None}).port == 9000


def test_a_label_is_stronger_than_the_environment() -> None:
    assert only(env=("SERVICE_NAME=env",), labels={"SERVICE_NAME": "label"}).name == "label"


def test_a_setting_for_a_port_is_stronger_than_the_general_one() -> None:
    service = only(env=("SERVICE_NAME=all", "SERVICE_8080_NAME=mine", "SERVICE_TAGS=a", "SERVICE_9090_TAGS=b"))
    assert (service.name, service.tags) == ("mine", ("a",))


def test_several_published_ports_are_told_apart_by_name_unless_they_have_their_own() -> None:
    ports: dict[str, list[dict[str, str]] | None] = {
        "8080/tcp": [{"HostIp": "", "HostPort": "80"}],
        "9090/tcp": [{"HostIp": "", "HostPort": "90"}],
    }
    found = list_services(container(ports=ports, env=("SERVICE_NAME=web", "SERVICE_9090_NAME=admin")), ADDRESS, META)
    assert [service.name for service in found] == ["web-8080", "admin"]


def test_tags_are_separated_by_commas_and_udp_is_one() -> None:
    service = only(ports={"53/udp": [{"HostIp": "", "HostPort": "53"}]}, env=("SERVICE_TAGS=a, b,,",))
    assert (service.tags, service.id) == (("a", "b", "udp"), f"{PREFIX}web:53:udp")


def test_an_ignored_container_and_an_ignored_port_are_not_registered() -> None:
    assert list_services(container(env=("SERVICE_IGNORE=1",)), ADDRESS, META) == []
    assert list_services(container(labels={"SERVICE_8080_IGNORE": "yes"}), ADDRESS, META) == []


def test_an_http_check_asks_the_published_port_with_the_intervals_given() -> None:
    service = only(env=("SERVICE_8080_CHECK_HTTP=/healthz", "SERVICE_CHECK_INTERVAL=2s", "SERVICE_CHECK_TIMEOUT=1s"))
    assert service.to_consul("passing")["check"] == {
        "http": "http://10.77.1.1:80/healthz",
        "interval": "2s",
        "timeout": "1s",
        "status": "passing",
        "failures_before_critical": 2,
    }


def test_a_tcp_check_connects_to_the_published_port() -> None:
    check = only(env=("SERVICE_CHECK_TCP=true",)).check
    assert check is not None
    assert (check.kind, check.target) == ("tcp", "10.77.1.1:80")


def test_a_ttl_check_has_no_interval() -> None:
    assert only(labels={"SERVICE_CHECK_TTL": "30s"}).to_consul("critical")["check"] == {
        "ttl": "30s",
        "status": "critical",
    }


def test_a_service_without_a_check_has_none() -> None:
    assert "check" not in only().to_consul("passing")


def test_the_hooks_go_to_the_containers_own_address_or_to_loopback() -> None:
    assert container_address(container()) == "172.17.0.2"
    host = container(network="host")
    host["NetworkSettings"]["Networks"] = {"host": {"IPAddress": ""}}
    assert container_address(host) == "127.0.0.1"


KEYS = st.sampled_from(["NAME", "TAGS", "IGNORE", "CHECK_HTTP", "CHECK_TCP", "CHECK_TTL", "8080_NAME", "9_TAGS", "X"])
SETTINGS = st.dictionaries(KEYS.map("SERVICE_{}".format), st.text(max_size=12), max_size=6)
PORTS = st.dictionaries(
    st.tuples(st.integers(1, 65535), st.sampled_from(["tcp", "udp"])).map(lambda p: f"{p[0]}/{p[1]}"),
    st.lists(st.fixed_dictionaries({"HostIp": st.just(""), "HostPort": st.just("80")}), max_size=2),
    max_size=4,
)


@given(SETTINGS, PORTS)
def test_whatever_is_set_each_entry_has_an_own_id_with_our_prefix(
    settings: dict[str, str], ports: dict[str, list[dict[str, str]] | None]
) -> None:
    found = list_services(container(ports=ports, labels=settings), ADDRESS, META)
    ids = [service.id for service in found]
    assert all(service_id.startswith(PREFIX) for service_id in ids)
    assert len(ids) == len(set(ids))


@given(SETTINGS)
def test_an_entry_is_the_same_as_what_consul_lists_of_it(settings: dict[str, str]) -> None:
    for service in list_services(container(labels=settings), ADDRESS, META):
        listed = {
            "Service": service.name,
            "Address": service.address,
            "Port": service.port,
            "Tags": list(reversed(service.tags)),
            "Meta": dict(service.meta),
        }
        assert service.is_same_as(listed)
        assert not service.is_same_as(listed | {"Port": service.port + 1})

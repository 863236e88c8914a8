"""The parts of the lab that live in its namespace, and the ports that lead into it."""

from functools import partial
from pathlib import Path

from forkyard.settings import Settings
from lab.consul import find_consul
from lab.consul_cluster import HTTP_PORT, ConsulCluster, consul_trouble, start_consul, stop_consul
from lab.forward import Forward, forward_ports, forward_trouble, start_forward, stop_forward
from lab.network import ensure_network, is_namespace, lab_network, remove_network
from lab.nginx import nginx_trouble, start_nginx, stop_nginx
from lab.parts import Part


def lab_home(settings: Settings) -> Path:
    """Where the lab keeps pid files, logs and Consul's data."""
    return settings.run_dir / "lab"


def make_cluster(settings: Settings) -> ConsulCluster:
    """The lab's Consul."""
    network = lab_network(settings)
    return ConsulCluster(
        namespace=network.namespace,
        client=str(network.load_balancer),
        servers=settings.consul.join,
        datacenter=settings.consul.datacenter,
        directory=lab_home(settings) / "consul",
    )


def make_inner_parts(settings: Settings) -> list[Part]:
    """Network, Consul, Nginx and their ports, in an order in which they could be started one by one."""
    network = lab_network(settings)
    home, namespace, address = lab_home(settings), network.namespace, str(network.load_balancer)
    names = sorted(settings.services)
    ports = (
        Forward("port of nginx", settings.lab.load_balancer_port, f"{address}:80", namespace, home),
        Forward("port of consul", settings.lab.consul_port, f"{address}:{HTTP_PORT}", namespace, home),
    )
    cluster = make_cluster(settings)
    inside = [
        Part(
            "consul",
            start=lambda: start_consul(cluster, find_consul(settings.cache_dir)),
            trouble=lambda: consul_trouble(cluster),
            stop=lambda: stop_consul(cluster),
            after=("network",),
        ),
        Part(
            "nginx",
            start=lambda: start_nginx(settings.nginx, address, names),
            trouble=lambda: nginx_trouble(settings.nginx),
            stop=lambda: stop_nginx(settings.nginx),
            after=("network",),
        ),
        *(
            Part(
                port.name,
                start=partial(start_forward, port),
                trouble=partial(forward_trouble, port),
                stop=partial(stop_forward, port),
                after=("network",),
                ports=partial(forward_ports, port),
            )
            for port in ports
        ),
    ]

    def start_network() -> bool:
        if not is_namespace(namespace):
            # Whatever still runs is in a namespace that is gone, where nothing reaches it.
            for part in reversed(inside):
                part.stop()
        return ensure_network(network)

    outermost = Part(
        "network",
        start=start_network,
        trouble=lambda: "" if is_namespace(namespace) else f"there is no namespace {namespace}",
        stop=lambda: remove_network(namespace),
    )
    return [outermost, *inside]

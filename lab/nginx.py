"""
The lab's Nginx: its nginx.conf, starting and stopping it.

The upstreams that it includes are the balancer's; see `forkyard.balancer.nginx_config`.
"""

import resource
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from forkyard.balancer.nginx import NginxBalancer
from forkyard.balancer.nginx_config import render_client_timeouts
from forkyard.balancer.nginx_process import NginxProcess, nginx_version
from forkyard.errors import InvalidRequest, NotReady, Unavailable
from forkyard.processes import end, find_process, spawn, tail
from forkyard.settings import NginxSettings
from forkyard.waiting import wait_for
from lab.daemons import list_inside

START_TIMEOUT = timedelta(seconds=20)
STOP_TIMEOUT = timedelta(seconds=5)

_FILES = 65536

_CONF = """\
# Made by `forkyard lab up`; not to be edited.
# Its sockets may lie below a directory that is root's alone; nothing outside the namespace reaches it.
user root;
worker_processes 2;
worker_rlimit_nofile {files};
worker_shutdown_timeout 120s;
pid nginx.pid;
error_log error.log warn;
events {{
    worker_connections {connections};
}}
http {{
    access_log off;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    # Idle clients lose their connection when a worker retires: docs/adr/0006.
{timeouts}
    # A dead child costs a request two seconds at most, then another one is asked. What was sent already
    # is repeated only when its method allows it (nginx's own rule for POST, LOCK and PATCH).
    proxy_connect_timeout 2s;
    proxy_read_timeout 60s;
    proxy_next_upstream error timeout invalid_header;
    proxy_next_upstream_tries 4;
    proxy_next_upstream_timeout 20s;
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    include upstreams/*.conf;
{servers}}}
"""

_SERVER = """\
    server {{
        listen {address}:80{default};
        server_name {service};
        location / {{
            proxy_pass http://{service};
        }}
    }}
"""


def render_nginx(settings: NginxSettings, address: str, services: Sequence[str]) -> str:
    """The nginx.conf of the lab: each service by its name, the first one also for every other name."""
    timeouts = render_client_timeouts(nginx_version(settings.binary))
    servers = "".join(
        _SERVER.format(address=address, service=service, default="" if number else " default_server backlog=4096")
        for number, service in enumerate(services)
    )
    # No more than this machine grants: a worker that asks for more starts with a complaint and fewer.
    files = min(_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return _CONF.format(
        timeouts="\n".join(f"    {line}" for line in timeouts.splitlines()),
        files=files,
        connections=files // 2,
        servers=servers,
    )


def start_nginx(settings: NginxSettings, address: str, services: Sequence[str]) -> bool:
    """
    Start Nginx unless it runs, every service beginning with what was last applied to it; say whether it was started.

    Raises:
        InvalidRequest: no service is configured.
        NotReady: it does not start; its own words are in the message.
    """
    if not services:
        text = "forkyard.toml has no service. Add a section [services.game] to it."
        raise InvalidRequest(text)
    process = NginxProcess(settings.binary, settings.directory, settings.namespace)
    if nginx_trouble(settings) == "":
        return False
    _clear(settings)
    home = settings.directory
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    balancer = NginxBalancer(settings)
    for service in services:
        balancer.prepare(service)
    (home / "nginx.conf").write_text(render_nginx(settings, address, services))
    argv = [settings.binary, "-p", f"{home}/", "-c", str(home / "nginx.conf"), "-g", "daemon off;"]
    spawn(["nice", "-n", "-5", *argv], log=home / "start.log", namespace=settings.namespace)

    def serving() -> bool | None:
        return True if process.master() and process.generation(services[0]) is not None else None

    try:
        wait_for(serving, what="nginx", timeout=START_TIMEOUT)
    except NotReady as error:
        text = f"nginx does not start: {tail(home / 'start.log')}"
        raise NotReady(text) from error
    return True


def nginx_trouble(settings: NginxSettings) -> str:
    """What is wrong with the lab's Nginx; empty text when nothing is."""
    process = NginxProcess(settings.binary, settings.directory, settings.namespace)
    try:
        process.check()
    except Unavailable as error:
        return str(error)
    return ""


def stop_nginx(settings: NginxSettings) -> None:
    """End Nginx at once and forget its upstreams; one that does not run is success."""
    _clear(settings)
    for path in settings.directory.glob("upstreams/*.conf"):
        path.unlink()


def _clear(settings: NginxSettings) -> None:
    """End what runs of it, and remove what keeps another from listening."""
    try:
        master = find_process(NginxProcess(settings.binary, settings.directory, settings.namespace).master())
    except Unavailable:
        master = None
    if master is not None:
        end(master, timeout=STOP_TIMEOUT)
    # Workers outlive a master that was killed, and keep its port.
    for worker in list_inside(settings.namespace, Path(settings.binary).name) if settings.namespace else ():
        end(worker, timeout=STOP_TIMEOUT)
    for path in (*settings.directory.glob("*.sock"), settings.directory / "nginx.pid"):
        path.unlink(missing_ok=True)

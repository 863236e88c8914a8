"""
What forkyard writes for Nginx, and reads back: one file a service below `upstreams/`. Pure text.

The operator's nginx.conf has the routes and one `include upstreams/*.conf;` inside `http`; it may say
`proxy_pass http://SERVICE;` for each service. Names and addresses come from Consul, and so from inside
guests: nothing is written that is not of the narrow form accepted here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from forkyard.balancer.servers import find_fault
from forkyard.errors import PermanentError
from forkyard.model import Server, Upstream

_SERVICE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,80}")
_GENERATION = re.compile(r"^# generation (\d+)$", re.MULTILINE)
_SERVER = re.compile(r"^    server ([0-9.]+):(\d+) [^;]*?(down)?; # (\S+)$", re.MULTILINE)
_LEFT = re.compile(r"^# left ([0-9.]+):(\d+) (\S+)$", re.MULTILINE)
_SHORTEST_STATE = (1, 27, 4)

_FILE = """\
# Written by forkyard whenever the fleet changes; not to be edited.
# generation {generation}
{left}upstream {service} {{
    zone {service} 4m;
    least_conn;
{servers}}}
server {{
    listen unix:{directory}/control.sock;
    server_name {service};
    access_log off;
    location = /generation {{
        return 200 "{service} {generation}";
    }}
}}
server {{
    # The only server of an upstream that has none.
    listen unix:{directory}/{service}.sorry.sock;
    access_log off;
    default_type application/json;
    add_header Retry-After 2 always;
    return 503 '{{"service": "{service}", "error": "no server is ready; ask again in a moment"}}\\n';
}}
"""


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """One file as it is on disk."""

    generation: int
    """Counts the changes; the workers say which one they serve."""
    upstream: Upstream
    left: tuple[Server, ...] = ()
    """Servers that were taken out and may still have open requests."""


def render_upstream(file: UpstreamFile, directory: Path) -> str:
    """
    The text of a service's file.

    Raises:
        PermanentError: a name, an address or a port that could mean something else to nginx, or one given twice.
    """
    upstream = file.upstream
    check_service(upstream.service)
    if not _PATH.fullmatch(str(directory)):
        text = f"nginx.directory: {str(directory)!r} must be an absolute path of at most 80 plain characters."
        raise PermanentError(text)
    for server in (*upstream.servers, *file.left):
        _check_server(upstream.service, server)
    for what, values in (
        ("name", [server.name for server in upstream.servers]),
        ("address", [f"{server.address}:{server.port}" for server in upstream.servers]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            text = f"{upstream.service}: two servers have the {what} {twice[0]}; each must have its own."
            raise PermanentError(text)
    servers = "".join(
        # A server that failed three times within 5 s is left alone for 5 s: a dead child costs few requests until
        # the registry has noticed, a slow one is not thrown out for one hiccup.
        f"    server {s.address}:{s.port} max_fails=3 fail_timeout=5s{' down' if s.down else ''}; # {s.name}\n"
        for s in sorted(upstream.servers)
    )
    sorry = f"    server unix:{directory}/{upstream.service}.sorry.sock;\n"
    return _FILE.format(
        generation=file.generation,
        service=upstream.service,
        directory=directory,
        left="".join(f"# left {s.address}:{s.port} {s.name}\n" for s in sorted(file.left)),
        servers=servers if any(not s.down for s in upstream.servers) else servers + sorry,
    )


def parse_upstream(service: str, text: str) -> UpstreamFile | None:
    """What `render_upstream` wrote; None when it was written by somebody else."""
    generation = _GENERATION.search(text)
    if generation is None:
        return None
    servers = tuple(
        Server(name, address, int(port), down=bool(down)) for address, port, down, name in _SERVER.findall(text)
    )
    left = tuple(Server(name, address, int(port)) for address, port, name in _LEFT.findall(text))
    return UpstreamFile(int(generation[1]), Upstream(service, servers), left)


def check_service(service: str) -> None:
    """Raise PermanentError unless the service's name is safe as an upstream's name and a file's."""
    if not _SERVICE.fullmatch(service):
        text = f"{service!r} cannot be a service in nginx: use at most 63 lower-case letters, digits and hyphens."
        raise PermanentError(text)


def render_client_timeouts(version: tuple[int, int, int]) -> str:
    """
    How long nginx keeps its clients' idle connections, as lines for `http`.

    At a reload nginx closes them at once, and a request that is on its way on one of them is lost: 206 of 120,000
    in 55 reloads. Without idle connections none is, and none since 1.27.4, which can promise a minimum. The figures
    are in docs/adr/0006-no-idle-clients-across-a-reload.md.
    """
    if version < _SHORTEST_STATE:
        return "keepalive_timeout 0;"
    return "keepalive_timeout 65s;\nkeepalive_min_timeout 10s;"


def _check_server(service: str, server: Server) -> None:
    if reason := find_fault(server):
        text = f"{service}: server {server.name!r} at {server.address!r}:{server.port} is refused: {reason}."
        raise PermanentError(text)

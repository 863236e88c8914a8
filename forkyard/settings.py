"""
What forkyard.toml says, checked once; the only module that reads the environment.

Every setting has a sentence that gives its unit and its reason. An unknown key is an error: a typing
mistake must not silently become a default.
"""

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from forkyard.errors import InvalidRequest
from forkyard.model import Limits
from forkyard.names import SERVICE_NAME
from forkyard.toml_reader import Problem, bounded, find_line, merge_tables, one_of, parse_toml, read_table
from forkyard.usages import USAGES

CONFIG_VARIABLE = "FORKYARD_CONFIG"
PASSWORD_VARIABLE = "FORKYARD_VCENTER_PASSWORD"  # noqa: S105 - the variable's name
LAB_PORTS = ("load_balancer_port", "consul_port", "prefect_port", "slack_port", "vcenter_port")
DEFAULT_CONFIG = Path("/etc/forkyard/forkyard.toml")
DEPLOYMENT_CONFIG = Path(__file__).resolve().parents[1] / "deployments" / "forkyard.toml"
"""The lab's file in a checkout: what counts when nobody has written another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulSettings:
    """Where the registry is."""

    url: str = "http://127.0.0.1:18500"
    """HTTP API of any Consul server, as seen from the machine that runs the flows."""
    token_file: Path | None = None
    """File with the ACL token, so that the token is in no configuration and no process list."""
    datacenter: str = "dc1"
    join: tuple[str, ...] = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
    """Addresses, as children see them, of the Consul servers that their agents join."""
    lease_ttl: timedelta = bounded(timedelta(seconds=10), at_least=10, at_most=86400)
    """How long a dead flow keeps its lease; Consul accepts 10 s at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxSettings:
    """The load balancer."""

    binary: str = "nginx"
    directory: Path = Path("/var/lib/forkyard/nginx")
    """Holds nginx.conf, upstreams/ (ours), logs, pid and the control socket."""
    url: str = "http://127.0.0.1:18080"
    """Where a player reaches the load balancer."""
    namespace: str | None = "forkyard"
    """Network namespace that Nginx runs in; None (in the file: ""): the host's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectSettings:
    """The workflow server."""

    api_url: str = "http://127.0.0.1:14200/api"


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuSettings:
    """The embedded hypervisor."""

    namespace: str | None = "forkyard"
    """Network namespace that the children's network devices are in; None (in the file: ""): the host's own."""
    bridge: str = "fy0"
    network: IPv4Network = IPv4Network("10.77.0.0/22")
    gateway: IPv4Address | None = None
    """None: children have no route out."""
    first_address: IPv4Address = IPv4Address("10.77.1.1")
    """Children get addresses from here to the end of the network."""
    accelerator: str = one_of("auto", "auto", "kvm", "tcg")
    """`auto` tries KVM with a short deadline and falls back to TCG; or `kvm`, or `tcg`."""
    memory_reserve: int = bounded(1 << 30, at_least=0)
    """Bytes of host memory that placements leave alone."""
    memory_share: float = bounded(0.6, above=0, at_most=1)
    """Part of a parent's memory that a child is expected to make its own; placements count with it."""
    standbys: int = bounded(4, at_least=0, at_most=256)
    """QEMU processes that wait for the next forks of each parent: starting one takes longer than restoring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsphereSettings:
    """The vCenter that forks the services whose hypervisor is `vsphere`."""

    url: str = ""
    """Such as https://vcenter.example/sdk; empty: none, and no service may name vsphere."""
    user: str = "administrator@vsphere.local"
    password_file: Path | None = None
    """File whose first line is the password; None: FORKYARD_VCENTER_PASSWORD in the environment has it."""
    ca_file: Path | None = None
    """CA that signed vCenter's certificate; None: those that this machine trusts."""
    thumbprint: str = ""
    """SHA-256 or SHA-1 of vCenter's certificate in hexadecimal digits; then no CA is asked."""
    verify: bool = True
    """False: any certificate will do, and every connection says so in the log."""
    folder: str = ""
    """Inventory path of the VM folder for children, such as /dc/vm/children; empty: the parent's own."""
    pool: str = ""
    """Inventory path of the children's resource pool, such as /dc/host/cluster/Resources; empty: the parent's own."""
    datastore: str = ""
    """Name of the children's datastore, or its inventory path; empty: the parent's own."""
    portgroup: str = ""
    """Name of the children's network, or its inventory path; empty: the parent's own."""
    network: IPv4Network = IPv4Network("10.78.0.0/16")
    """The children's addresses are in it; forkyard chooses them, no DHCP server does."""
    gateway: IPv4Address | None = None
    """None: children have no route out."""
    first_address: IPv4Address = IPv4Address("10.78.1.1")
    """Children get addresses from here to the end of the network."""
    forks_per_parent: int = bounded(8, at_least=1)
    """Forks of one parent that are in flight at once; vCenter does a part of each one after the other anyway."""
    memory_share: float = bounded(0.6, above=0, at_most=1)
    """Part of a parent's memory that a child is expected to make its own; placements count with it."""
    memory_reserve: float = bounded(0.1, at_least=0, at_most=1)
    """Part of a host's memory that placements leave alone."""
    child_disk: int = bounded(1 << 30, at_least=0)
    """Bytes that a child is expected to write to its own disk; placements count with it."""
    datastore_reserve: float = bounded(0.1, at_least=0, at_most=1)
    """Part of a datastore that placements leave free; vSAN needs some to repair itself."""
    fork_running_parents: bool = False
    """Whether a parent that was not frozen may be forked: each such fork adds a level to its disk, of 255 at most."""
    customize: str = one_of("agent", "agent", "tools")
    """
    Who gives a child its identity: our agent in the guest, or vSphere's own guest customization (vSphere 7), for
    parents without our agent. That one changes host name and address; all else is the image's own to change.
    """
    guest_user: str = ""
    """User in the guest for guest operations and customization (root); empty: our agent freezes the parent."""
    guest_password_file: Path | None = None
    """File whose first line is that user's password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSettings:
    """The small world on one machine; only `forkyard lab` reads it."""

    load_balancer_port: int = bounded(18080, at_least=1, at_most=65535)
    consul_port: int = bounded(18500, at_least=1, at_most=65535)
    prefect_port: int = bounded(14200, at_least=1, at_most=65535)
    slack_port: int = bounded(14300, at_least=1, at_most=65535)
    vcenter_port: int = bounded(14443, at_least=1, at_most=65535)
    """Of the lab's own vCenter, which is there only after `forkyard lab up --hypervisor vsphere`."""
    hosts: int = bounded(4, at_least=1, at_most=200)
    """ESXi hosts in it, each with a parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """What is asked for, decided and done: where it is kept, and what a run must show before it changes anything."""

    url: str = ""
    """SQLAlchemy's, without a password, such as postgresql+psycopg://forkyard@db/forkyard; "": SQLite in state_dir."""
    password_file: Path | None = None
    """File with the database's password, so that it is in no configuration and no process list."""
    key_file: Path | None = None
    """Signs approvals and the audit log; whoever reads it can approve anything. None: state_dir/approvals.key."""
    plan_ttl: timedelta = bounded(timedelta(minutes=15), at_least=10)
    """How long a plan can be approved; afterwards the fleet may be another."""
    drift: int = bounded(2, at_least=0)
    """Children by which the fleet may differ from the approved plan when the run begins."""
    late: timedelta = bounded(timedelta(minutes=5), at_least=1)
    """A scheduled start missed by more is asked about, and never run silently."""
    calendar: Path | None = None
    """The pre-sale calendar. None: presales.toml beside forkyard.toml, if it is there."""
    direct: bool = True
    """Whether whoever can read key_file (root on this machine) may scale from the command line without a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """What some people may do; "*" stands for all."""

    users: tuple[str, ...] = ()
    """Slack's ids of people, such as U012AB3CD; names can be changed by anybody."""
    groups: tuple[str, ...] = ()
    """Slack's ids of user groups, such as S012AB3CD."""
    services: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatopsSettings:
    """Who may do what from Slack; what is not said here is refused."""

    teams: tuple[str, ...] = ()
    """Slack's ids of the workspaces that are listened to."""
    channels: tuple[str, ...] = ()
    """Slack's ids of the channels that commands may come from; plans go to the first."""
    roles: dict[str, RoleSettings] = field(default_factory=dict[str, RoleSettings])
    mode: str = one_of("socket", "socket", "http")
    """`socket`: the bot opens connections to Slack; `http`: Slack sends signed requests to the bot."""
    api_url: str = "https://slack.com/api/"
    """Slack's Web API; another one only for trying out."""
    bot_token_file: Path | None = None
    """File with the bot's token (xoxb-...); None: it is taken from SLACK_BOT_TOKEN."""
    app_token_file: Path | None = None
    """File with the app's token (xapp-...), for Socket Mode; None: from SLACK_APP_TOKEN."""
    signing_secret_file: Path | None = None
    """File with the signing secret, for HTTP; None: from SLACK_SIGNING_SECRET."""
    http_port: int = bounded(14400, at_least=1, at_most=65535)
    """Where signed requests are taken on 127.0.0.1: put a proxy with TLS before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """One app that is scaled."""

    hypervisor: str = one_of("qemu", "qemu", "vsphere")
    parent: str = "game"
    """
    What children are forked from. QEMU: the parent's name. vSphere: which VMs are parents, one on each host: a pattern
    of names such as "game-parent-*", or "folder:/dc/vm/parents", or "attribute:NAME=VALUE" of a custom attribute.
    """
    minimum: int = bounded(0, at_least=0)
    maximum: int = bounded(16, at_least=1)
    step: int = bounded(200, at_least=1)
    """Most children that one request makes or retires."""
    memory_mib: int = bounded(768, at_least=64)
    """RAM of the parent and so of each child."""
    health_path: str = "/healthz"
    fork_timeout: timedelta = bounded(timedelta(seconds=30), above=0)
    identify_timeout: timedelta = bounded(timedelta(seconds=60), above=0)
    register_timeout: timedelta = bounded(timedelta(seconds=90), above=0)
    serve_timeout: timedelta = bounded(timedelta(seconds=60), above=0)
    drain_timeout: timedelta = bounded(timedelta(seconds=30), above=0)
    """How long open requests may go on before a retiring child is destroyed all the same."""
    orphan_after: timedelta = bounded(timedelta(minutes=10), above=0)
    """Expiry of a new child's stamp: one that no finished request keeps by then is an orphan."""
    production: bool = False
    """Whether people depend on it: another person than the requester must then approve making it smaller."""
    approval_above: int = bounded(3, at_least=0)
    """A change of more children than these must be approved by another person than the requester."""

    @property
    def limits(self) -> Limits:
        """The bounds for the planner."""
        return Limits(minimum=self.minimum, maximum=self.maximum, step=self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of forkyard.toml."""

    state_dir: Path = Path("/var/lib/forkyard")
    """Frozen parents, children's disks, audit: what must survive a reboot."""
    run_dir: Path = Path("/run/forkyard")
    """Sockets, pids, logs of processes. Keep it short: a socket's path has at most 107 bytes."""
    cache_dir: Path = Path("/var/cache/forkyard")
    """What can be built again: guest images, downloaded binaries."""
    consul: ConsulSettings = field(default_factory=ConsulSettings)
    nginx: NginxSettings = field(default_factory=NginxSettings)
    prefect: PrefectSettings = field(default_factory=PrefectSettings)
    qemu: QemuSettings = field(default_factory=QemuSettings)
    vsphere: VsphereSettings = field(default_factory=VsphereSettings)
    lab: LabSettings = field(default_factory=LabSettings)
    requests: RequestSettings = field(default_factory=RequestSettings)
    chatops: ChatopsSettings = field(default_factory=ChatopsSettings)
    services: dict[str, ServiceSettings] = field(default_factory=dict[str, ServiceSettings])

    def service(self, name: str) -> ServiceSettings:
        """The service's settings; raises InvalidRequest naming the services that there are."""
        try:
            return self.services[name]
        except KeyError as error:
            known = ", ".join(sorted(self.services)) or "none"
            text = f"{name}: no such service in forkyard.toml. Known services: {known}."
            raise InvalidRequest(text) from error

    def network_of(self, service: str) -> tuple[IPv4Network, IPv4Address | None]:
        """The network that the service's children have their addresses in, and its gateway."""
        where = self.vsphere if self.service(service).hypervisor == "vsphere" else self.qemu
        return where.network, where.gateway


def read_password(settings: VsphereSettings) -> str:
    """
    Read the password of vsphere.user; raises InvalidRequest saying where it is looked for.

    Kept out of `Settings`, so that it stands in no log and in no parameter of a run.
    """
    if settings.password_file is not None:
        return _first_line(settings.password_file, "vsphere.password_file")
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        text = (
            f"no password for {settings.user} at {settings.url}. Put it into a file and name that in "
            f"vsphere.password_file, or set {PASSWORD_VARIABLE}."
        )
        raise InvalidRequest(text)
    return password


def read_guest_password(settings: VsphereSettings) -> str:
    """Read the password of vsphere.guest_user; raises InvalidRequest as `read_password` does."""
    if settings.guest_password_file is None:
        text = f"no password for {settings.guest_user} in the guest. Name its file in vsphere.guest_password_file."
        raise InvalidRequest(text)
    return _first_line(settings.guest_password_file, "vsphere.guest_password_file")


def _first_line(path: Path, key: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        text = f"{key}: {path} cannot be read: {reason}."
        raise InvalidRequest(text) from error
    if not lines or not lines[0]:
        text = f"{key}: the first line of {path} is empty; the password goes there."
        raise InvalidRequest(text)
    return lines[0]


def find_config(path: Path | None = None) -> Path:
    """Choose the file: *path*, or what FORKYARD_CONFIG names, or /etc/forkyard/forkyard.toml, or the checkout's."""
    named = os.environ.get(CONFIG_VARIABLE)
    if path is not None or named:
        return path or Path(str(named))
    return DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else DEPLOYMENT_CONFIG


def load_settings(path: Path | None = None) -> Settings:
    """
    Read the file that `find_config` chooses.

    Raises:
        InvalidRequest: not there, not TOML, or wrong; each problem with its line, its key and what would be right.
    """
    chosen = find_config(path)
    try:
        text = chosen.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"{chosen}: cannot be read: {reason}. Name the right file with --config or {CONFIG_VARIABLE}."
        raise InvalidRequest(message) from error
    return _under_lab(parse_settings(text, source=str(chosen)), text, source=str(chosen))


def read_secret(path: Path | None, variable: str) -> str:
    """A secret from its file, or from the environment where no file is named; empty when there is none."""
    if path is None:
        return os.environ.get(variable, "").strip()
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}. It should hold what {variable} would."
        raise InvalidRequest(message) from error


def lab_file(settings: Settings) -> Path:
    """
    Where the lab says what is different while it is up, such as the hypervisor and its address.

    There only with a lab that was brought up under another hypervisor than the file's; every command reads it.
    """
    return settings.run_dir / "lab" / "forkyard.toml"


def _under_lab(settings: Settings, text: str, *, source: str) -> Settings:
    try:
        over = lab_file(settings).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return settings
    return parse_settings(text, source=f"{source} under {lab_file(settings)}", over=over)


def parse_settings(text: str, *, source: str = "forkyard.toml", over: str = "") -> Settings:
    """Read the text of a forkyard.toml, *over* laid over it; raises InvalidRequest as `load_settings` does."""
    try:
        table = merge_tables(parse_toml(text), parse_toml(over))
    except ValueError as error:
        message = f"{source}: {error}"
        raise InvalidRequest(message) from error
    problems: list[Problem] = []
    settings = read_table(Settings, table, problems)
    if settings is not None:
        problems.extend(_contradictions(settings))
    if settings is None or problems:
        in_order = sorted(problems, key=lambda problem: find_line(text, problem.path) or 0)
        lines = [problem.render(text) for problem in in_order]
        found = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems", *(f"  {line}" for line in lines)])
        message = f"{source}: {found}"
        raise InvalidRequest(message)
    return settings


def _contradictions(settings: Settings) -> list[Problem]:
    problems: list[Problem] = []
    qemu, longest = settings.qemu, 60
    for section, where in (("qemu", qemu), ("vsphere", settings.vsphere)):
        for key, address in (("first_address", where.first_address), ("gateway", where.gateway)):
            if address is not None and address not in where.network:
                text = f' = "{address}": is outside of {section}.network, {where.network}.'
                problems.append(Problem((section, key), text))
    if len(str(settings.run_dir)) > longest:
        text = (
            f' = "{settings.run_dir}": is too long; a socket below it may have 107 bytes in all. Use at most {longest}.'
        )
        problems.append(Problem(("run_dir",), text))
    ports = settings.lab
    numbers = [getattr(ports, name) for name in LAB_PORTS]
    same = [name for name, number in zip(LAB_PORTS, numbers, strict=True) if numbers.count(number) > 1]
    if same:
        text = f": two of the ports are the same: {', '.join(same)}."
        problems.append(Problem(("lab",), text))
    if settings.vsphere.customize == "tools" and not settings.vsphere.guest_user:
        text = ' = "tools": needs vsphere.guest_user, who acts in the guest.'
        problems.append(Problem(("vsphere", "customize"), text))
    for name, service in settings.services.items():
        problems.extend(_service_contradictions(settings, name, service))
    return problems + _misnamed(settings)


def _service_contradictions(settings: Settings, name: str, service: ServiceSettings) -> list[Problem]:
    problems: list[Problem] = []
    path = ("services", name)
    if not SERVICE_NAME.fullmatch(name):
        text = ": is part of host names, so it is at most 40 lower-case letters, digits and hyphens, a letter first."
        problems.append(Problem(path, text))
    if service.minimum > service.maximum:
        text = f" = {service.minimum}: is above maximum, {service.maximum}."
        problems.append(Problem((*path, "minimum"), text))
    if service.hypervisor == "vsphere" and not settings.vsphere.url:
        text = ' = "vsphere": and vsphere.url is not set.'
        problems.append(Problem((*path, "hypervisor"), text))
    if not service.health_path.startswith("/"):
        problems.append(Problem((*path, "health_path"), f' = "{service.health_path}": begins with /.'))
    return problems


def _misnamed(settings: Settings) -> list[Problem]:
    """Find what roles say of verbs and services that there are not: a slip that would silently permit nothing."""
    problems: list[Problem] = []
    for name, role in settings.chatops.roles.items():
        for key, words, known in (("verbs", role.verbs, [*USAGES]), ("services", role.services, [*settings.services])):
            unknown = [word for word in words if word not in {"*", *known}]
            if unknown:
                text = f": there is no {unknown[0]}. There are: {', '.join(sorted(known))}, and * for all."
                problems.append(Problem(("chatops", "roles", name, key), text))
    if re.match(r"[^:]+://[^/@]*:[^/@]*@", settings.requests.url):
        problems.append(Problem(("requests", "url"), ": holds a password. Put it into requests.password_file."))
    return problems

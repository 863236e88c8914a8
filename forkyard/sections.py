"""
The sections of forkyard.toml: each key with its type, its default and its bounds.

Every setting has a sentence that gives its unit and its reason. What a type cannot say, because it takes two
settings, is checked in `forkyard.settings`.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from forkyard.errors import InvalidRequest
from forkyard.model import Limits
from forkyard.texts import Addresses, DatacenterName, DeviceName, HttpUrl, NamespaceName, VcenterUrl
from forkyard.toml_reader import bounded, one_of

_DAY = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulSettings:
    """Where the registry is."""

    url: HttpUrl = "http://127.0.0.1:18500"
    """HTTP API of any Consul server, as seen from the machine that runs the flows; left out: at lab.consul_port."""
    token_file: Path | None = None
    """File with the ACL token, so that the token is in no configuration and no process list."""
    datacenter: DatacenterName = "dc1"
    join: Addresses = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
    """Addresses, as children see them, of the Consul servers that their agents join."""
    lease_ttl: timedelta = bounded(timedelta(seconds=10), at_least=10, at_most=_DAY)
    """How long a dead flow keeps its lease; Consul accepts 10 s at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxSettings:
    """The load balancer."""

    binary: str = "nginx"
    directory: Path = Path("/var/lib/forkyard/nginx")
    """Holds nginx.conf, upstreams/ (ours), logs, pid and the control socket."""
    url: HttpUrl = "http://127.0.0.1:18080"
    """Where a player reaches the load balancer; left out: at lab.load_balancer_port."""
    namespace: NamespaceName | None = "forkyard"
    """Network namespace that Nginx runs in; None (in the file: ""): the host's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectSettings:
    """The workflow server."""

    api_url: HttpUrl = "http://127.0.0.1:14200/api"
    """Left out: at lab.prefect_port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuSettings:
    """The embedded hypervisor."""

    namespace: NamespaceName | None = "forkyard"
    """Network namespace that the children's network devices are in; None (in the file: ""): the host's own."""
    bridge: DeviceName = "fy0"
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
    children_per_processor: int = bounded(64, at_least=1)
    """Most children for each processor of the host, as placements count: many idle ones share one, busy ones do not."""
    standbys: int = bounded(4, at_least=0, at_most=256)
    """QEMU processes that wait for the next forks of each parent: starting one takes longer than restoring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VsphereSettings:
    """The vCenter that forks the services whose hypervisor is `vsphere`."""

    url: VcenterUrl = ""
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
    vsan_health: bool = True
    """False: what vSAN's own health service says does not count, for who must scale whatever is red there."""
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
    """The small world on one machine; Consul, Nginx and Prefect are at its ports unless their URLs are set."""

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
    """A start missed by more, at its time or after an approval for at once, is asked about, and never run silently."""
    calendar: Path | None = None
    """The pre-sale calendar, which must be there then. None: presales.toml beside forkyard.toml, if it is there."""
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
    api_url: HttpUrl = "https://slack.com/api/"
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
    """Most children that one request makes or retires; of more it does a part."""
    memory_mib: int = bounded(768, at_least=64)
    """RAM of the parent and so of each child."""
    fork_timeout: timedelta = bounded(timedelta(seconds=30), above=0, at_most=_DAY)
    identify_timeout: timedelta = bounded(timedelta(seconds=60), above=0, at_most=_DAY)
    register_timeout: timedelta = bounded(timedelta(seconds=90), above=0, at_most=_DAY)
    serve_timeout: timedelta = bounded(timedelta(seconds=60), above=0, at_most=_DAY)
    drain_timeout: timedelta = bounded(timedelta(seconds=30), above=0, at_most=_DAY)
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

    @property
    def has_lab(self) -> bool:
        """Whether this world is a lab's: with Nginx or the children in the host's own network it is another."""
        return self.nginx.namespace is not None and self.qemu.namespace is not None

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

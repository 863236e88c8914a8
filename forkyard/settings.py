"""
What forkyard.toml says, checked once; the only module that reads the environment.

The keys stand in `forkyard.sections`. An unknown one is an error: a typing mistake must not silently become a default.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from forkyard.errors import InvalidRequest
from forkyard.names import PARENT_NAME, PARENT_NAME_RULE, SERVICE_NAME
from forkyard.sections import (
    ChatopsSettings,
    ConsulSettings,
    LabSettings,
    NginxSettings,
    PrefectSettings,
    QemuSettings,
    RequestSettings,
    RoleSettings,
    ServiceSettings,
    Settings,
    VsphereSettings,
)
from forkyard.toml_reader import Problem, find_line, merge_tables, parse_toml, read_table
from forkyard.usages import USAGES

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_CONFIG",
    "DEPLOYMENT_CONFIG",
    "LAB_PORTS",
    "LAB_URLS",
    "PASSWORD_VARIABLE",
    "ChatopsSettings",
    "ConsulSettings",
    "LabSettings",
    "NginxSettings",
    "PrefectSettings",
    "QemuSettings",
    "RequestSettings",
    "RoleSettings",
    "ServiceSettings",
    "Settings",
    "VsphereSettings",
    "find_config",
    "lab_file",
    "load_settings",
    "parse_settings",
    "read_guest_password",
    "read_password",
    "read_secret",
]

CONFIG_VARIABLE = "FORKYARD_CONFIG"
PASSWORD_VARIABLE = "FORKYARD_VCENTER_PASSWORD"  # noqa: S105 - the variable's name
LAB_PORTS = ("load_balancer_port", "consul_port", "prefect_port", "slack_port", "vcenter_port")
LAB_URLS = (
    ("nginx", "url", "http://127.0.0.1:{}", "load_balancer_port"),
    ("consul", "url", "http://127.0.0.1:{}", "consul_port"),
    ("prefect", "api_url", "http://127.0.0.1:{}/api", "prefect_port"),
)
"""Section and key of each address that, left out, is the lab's; its form; whose port it has."""
_SMALLEST = 30
"""Prefix length of a network that has room for the load balancer and a child."""
DEFAULT_CONFIG = Path("/etc/forkyard/forkyard.toml")
DEPLOYMENT_CONFIG = Path(__file__).resolve().parents[1] / "deployments" / "forkyard.toml"
"""The lab's file in a checkout: what counts when nobody has written another one."""


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
        settings = _follow_lab(settings, table)
        problems.extend(_contradictions(settings))
    if settings is None or problems:
        in_order = sorted(problems, key=lambda problem: find_line(text, problem.path) or 0)
        lines = [problem.render(text) for problem in in_order]
        found = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems", *(f"  {line}" for line in lines)])
        message = f"{source}: {found}"
        raise InvalidRequest(message)
    return settings


def _follow_lab(settings: Settings, table: Mapping[str, object]) -> Settings:
    """Let the addresses that the file leaves out be those of the lab's ports."""
    for section, key, url, port in LAB_URLS:
        said = cast("Mapping[str, object]", table.get(section, {}))
        if key not in said:
            followed = url.format(getattr(settings.lab, port))
            settings = replace(settings, **{section: replace(getattr(settings, section), **{key: followed})})
    return settings


def _contradictions(settings: Settings) -> list[Problem]:
    problems: list[Problem] = []
    qemu, longest = settings.qemu, 60
    for section, where in (("qemu", qemu), ("vsphere", settings.vsphere)):
        if where.network.prefixlen > _SMALLEST:
            text = f' = "{where.network}": is too small; a prefix length of at most {_SMALLEST} is wanted.'
            problems.append(Problem((section, "network"), text))
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
    if service.hypervisor == "qemu" and not PARENT_NAME.fullmatch(service.parent):
        text = f' = "{service.parent}": is no parent\'s name: {PARENT_NAME_RULE}.'
        problems.append(Problem((*path, "parent"), text))
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

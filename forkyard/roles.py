"""
Who may do what: roles from forkyard.toml, checked when a command comes and again when a button is clicked.

Pure. Denied unless a role says otherwise; a refusal names who could, so that the next step is known.
"""

from collections.abc import Collection
from dataclasses import dataclass

from forkyard.errors import NotPermitted
from forkyard.settings import ChatopsSettings, RoleSettings
from forkyard.usages import USAGES

ALL = "*"

OPEN_VERBS = frozenset({"help", "whoami"})
"""What anybody may ask in an allowed channel: how to ask, and who they are."""

LOCAL = "local:"
"""How people at the command line are named; who can read the key there needs no role."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who asks."""

    id: str
    groups: frozenset[str] = frozenset()
    """Ids of the user groups that they are in now."""
    unsure: bool = False
    """Whether it could not be asked which groups they are in: what is refused then may be allowed a moment later."""


def may(chatops: ChatopsSettings, person: Person, verb: str, service: str | None = None) -> bool:
    """Whether the person may use *verb*; with *service*: on that one, without: on any."""
    if verb in OPEN_VERBS:
        return True
    return any(_grants(role, verb, service) for role in _roles_of(chatops, person).values())


def check(chatops: ChatopsSettings, person: Person, verb: str, service: str | None = None) -> None:
    """Raise NotPermitted unless the person may; the message says who can."""
    if may(chatops, person, verb, service):
        return
    what = f"{verb} {service}" if service else verb
    if person.unsure:
        text = f"{what}: Slack cannot be asked for your groups now, so your roles are not known. Try again in a minute."
        raise NotPermitted(text)
    able = name_able(chatops, verb, service)
    next_step = f"Ask one of {able}" if able else "Nobody may yet"
    text = f"{what}: you have no role for it. {next_step}, or have a role added under [chatops.roles] in forkyard.toml."
    raise NotPermitted(text)


def check_place(chatops: ChatopsSettings, team: str, channel: str) -> None:
    """Raise NotPermitted unless commands may come from there."""
    if team not in chatops.teams:
        text = f"This workspace ({team}) is not one that forkyard listens to. Add it to chatops.teams in forkyard.toml."
        raise NotPermitted(text)
    if channel not in chatops.channels:
        allowed = ", ".join(f"<#{name}>" for name in chatops.channels) or "none yet"
        text = f"Commands may not come from this channel ({channel}). Use one of: {allowed} (chatops.channels)."
        raise NotPermitted(text)


def list_verbs(chatops: ChatopsSettings, person: Person) -> list[str]:
    """The verbs that help shows this person, in its order."""
    return [verb for verb in USAGES if may(chatops, person, verb)]


def list_services(chatops: ChatopsSettings, person: Person, verb: str, known: Collection[str]) -> list[str]:
    """The services on which the person may use *verb*."""
    return [service for service in sorted(known) if may(chatops, person, verb, service)]


def list_roles(chatops: ChatopsSettings, person: Person) -> list[str]:
    """Names of the person's roles."""
    return sorted(_roles_of(chatops, person))


def name_able(chatops: ChatopsSettings, verb: str, service: str | None = None, *, but: Person | None = None) -> str:
    """Those who may, as Slack shows people and groups; empty when nobody may, *but* that person left aside."""
    granting = [role for role in chatops.roles.values() if _grants(role, verb, service)]
    users = dict.fromkeys(f"<@{user}>" for role in granting for user in role.users if but is None or user != but.id)
    groups = dict.fromkeys(f"<!subteam^{group}>" for role in granting for group in role.groups)
    return ", ".join([*users, *groups])


def _roles_of(chatops: ChatopsSettings, person: Person) -> dict[str, RoleSettings]:
    # No "*" for people: a role for everybody would be one for whoever joins the workspace.
    return {
        name: role
        for name, role in chatops.roles.items()
        if person.id in role.users or person.groups.intersection(role.groups)
    }


def _grants(role: RoleSettings, verb: str, service: str | None) -> bool:
    verbs, services = role.verbs, role.services
    if verb not in verbs and ALL not in verbs:
        return False
    return bool(services) if service is None else service in services or ALL in services

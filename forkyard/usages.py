"""What can be typed: each verb's form, what it does, and examples that tests type."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """What help says of one verb."""

    form: str
    does: str
    examples: tuple[str, ...]


USAGES: Mapping[str, Usage] = {
    "status": Usage("status [SERVICE]", "shows the fleets as they are", ("status", "status game")),
    "plan": Usage("plan SERVICE to N", "shows what would happen, and changes nothing", ("plan game to 200",)),
    "scale": Usage(
        'scale SERVICE to N [at WHEN] [for DURATION] [because "TEXT"] [dry-run]',
        "brings a service to N servers",
        (
            "scale game to 200",
            'scale game to 200 at 2026-11-27T05:00 America/New_York for 6h because "Black Friday"',
            "scale game by +20",
        ),
    ),
    "schedule": Usage(
        "schedule list [SERVICE] | schedule cancel ID | schedule move ID to WHEN",
        "shows and changes what is going to happen by itself",
        ("schedule list", "schedule cancel 3fa9c1", "schedule move 3fa9c1 to tomorrow 05:00"),
    ),
    "approve": Usage('approve ID [break-glass because "TEXT"]', "says yes to somebody's request", ("approve 3fa9c1",)),
    "deny": Usage('deny ID because "TEXT"', "says no to somebody's request", ('deny 3fa9c1 because "not today"',)),
    "cancel": Usage("cancel ID", "stops a request, before or while it runs", ("cancel 3fa9c1",)),
    "retry": Usage("retry ID", "asks again for what a request did not reach", ("retry 3fa9c1",)),
    "rollback": Usage("rollback ID", "goes back to where the fleet was before a request", ("rollback 3fa9c1",)),
    "lock": Usage('lock SERVICE because "TEXT"', "lets nobody change a service", ('lock game because "audit"',)),
    "unlock": Usage("unlock SERVICE", "lets a service be changed again", ("unlock game",)),
    "log": Usage(
        "log [SERVICE | ID | @user] [since DURATION]",
        "shows what was asked, decided and done",
        ("log game since 2h", "log 3fa9c1"),
    ),
    "whoami": Usage("whoami", "says who you are here, and what you may do", ("whoami",)),
    "help": Usage("help [VERB]", "shows what you can type", ("help", "help scale")),
}
"""Every verb, in the order in which help shows them."""

"""
What was understood of a command, as fields for a form: of a whole one, and of one with a mistake in it.

Pure. Nothing is judged here: what looks like a field is taken as it was typed, and the person mends it in the form.
"""

import difflib
from collections.abc import Collection, Sequence

from forkyard.commands import Amount, Command, Plan, Scale
from forkyard.moments import write_duration
from forkyard.words import Word

CLAUSES = frozenset({"for", "because", "dry-run", "--dry-run"})
"""What ends a time; the words in front of it belong together."""


def draft_of(command: Command) -> dict[str, str]:
    """The fields of a command: `service`, `number`, `at`, `hold`, `reason`; those that it has not are left out."""
    amount: Amount | None = getattr(command, "amount", None)
    found = {"service": getattr(command, "service", None), "number": amount, "reason": getattr(command, "reason", "")}
    if isinstance(command, Scale):
        found["at"] = command.at
        found["hold"] = write_duration(command.hold) if command.hold else None
    return {key: str(value) for key, value in found.items() if value}


def sketch(words: Sequence[Word], services: Collection[str]) -> dict[str, str]:
    """The fields that stand in the words of a `scale` or `plan`, whatever else is wrong with them."""
    if len(words) < 2 or words[0].key not in {Scale.verb, Plan.verb}:  # noqa: PLR2004 - the verb and its service
        return {}
    near = difflib.get_close_matches(words[1].key, sorted(services), n=1, cutoff=0.5)
    found = {"service": near[0]} if near else {}
    for number, word in enumerate(words[2:], start=3):
        rest = words[number:]
        if word.key in {"to", "by"} and rest:
            found.setdefault("number", f"{word.key} {rest[0].text}")
        elif word.key in {"at", "in"} and "at" not in found:
            own = [word.text] if word.key == "in" else []
            found["at"] = " ".join(own + [w.text for w in rest[: _find_end(rest)]])
        elif word.key == "for" and rest:
            found.setdefault("hold", rest[0].text)
        elif word.key == "because" and rest:
            found.setdefault("reason", rest[0].text)
    return {key: value for key, value in found.items() if value}


def _find_end(words: Sequence[Word]) -> int:
    return next((number for number, word in enumerate(words) if word.key in CLAUSES), len(words))

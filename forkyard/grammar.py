"""
Read what a person typed: a command, or a complaint that says what would be right.

Pure, and shared by Slack and the command line. Never raises: whatever is typed gets one of the two. The text of a
command reads as that same command, so an echo shows exactly what was understood.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NoReturn

from forkyard.commands import (
    Amount,
    Approve,
    Cancel,
    Card,
    Command,
    Deny,
    Help,
    Lock,
    Log,
    Plan,
    Retry,
    Rollback,
    Scale,
    ScheduleCancel,
    ScheduleList,
    ScheduleMove,
    Status,
    Unlock,
    Whoami,
)
from forkyard.drafts import CLAUSES, draft_of, sketch
from forkyard.errors import InvalidRequest
from forkyard.moments import AmbiguousTime, When, read_duration, read_when
from forkyard.usages import USAGES
from forkyard.words import Word, quote, split_words

LONGEST_REASON = 500
"""Characters: a reason stands in one line of a message, a tag and a log."""

MOST_CHILDREN = 100_000
"""A larger number is a slip of the finger in any fleet; the service's own limits come later."""

_NUMBER = re.compile(r"[0-9]{1,6}")
_CHANGE = re.compile(r"[+-]?[0-9]{1,6}")
_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,63}")
_USER = re.compile(r"@[A-Za-z0-9._:-]{1,63}")


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a text is no command, and what would be."""

    text: str
    verb: str | None = None
    usage: str = ""
    meant: str | None = None
    """A whole command that was probably meant; it reads as one."""
    choices: tuple[str, ...] = ()
    """Whole commands to choose from, where a local time comes twice."""
    draft: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was understood (`service`, `number`, `at`, `hold`, `reason`), for a form that is filled in."""

    def __str__(self) -> str:
        """All of it, for a place without buttons."""
        parts = [self.text]
        if self.meant is not None:
            parts.append(f"Did you mean: {self.meant}")
        parts.extend(f"or: {choice}" if i else f"Choose: {choice}" for i, choice in enumerate(self.choices))
        if self.usage:
            parts.append(f"Usage: {self.usage}")
        return "\n".join(parts)


@dataclass(slots=True)
class _Reader:
    """The words that are still to be read, and what is needed to understand them."""

    words: list[Word]
    now: datetime
    zone: str
    services: Collection[str]
    draft: dict[str, str] = field(default_factory=dict[str, str])

    def peek(self) -> str:
        return self.words[0].key if self.words else ""

    def skip(self, *keys: str) -> bool:
        if self.peek() not in keys or not self.peek():
            return False
        self.words.pop(0)
        return True

    def take(self, what: str) -> Word:
        if not self.words:
            _refuse(f"{what} is missing at the end.")
        return self.words.pop(0)

    def plain(self, what: str, pattern: re.Pattern[str], form: str) -> str:
        word = self.take(what)
        if word.quoted or not pattern.fullmatch(word.text.lower()):
            _refuse(f"{_shown(word)}: is no {what}: {form}.")
        return word.text.lower()

    def service(self) -> str:
        name = self.plain("service", _SERVICE, "it has small letters, digits and hyphens, such as game")
        if self.services and name not in self.services:
            near = difflib.get_close_matches(name, sorted(self.services), n=1, cutoff=0.5)
            known = f"There are: {', '.join(sorted(self.services))}"
            _refuse(f"{name}: no service is called so. {known}.", wrong=name, right=near[0] if near else None)
        self.draft["service"] = name
        return name

    def id(self) -> str:
        return self.plain("ID", _ID, "it has at least three small letters, digits and hyphens, such as 3fa9c1")

    def duration(self) -> timedelta:
        return read_duration(self.take("the duration").text)

    def reason(self) -> str:
        word = self.take("the reason")
        if not word.quoted:
            text = " ".join([word.text, *(w.text for w in self.words)]).replace('"', "'")
            _refuse(f'Put the reason in quotation marks, as the last thing or before dry-run: because "{text}"')
        if not word.text:
            _refuse("The reason is empty. Say in a few words why.")
        if len(word.text) > LONGEST_REASON:
            _refuse(f"The reason has {len(word.text)} characters; at most {LONGEST_REASON} are kept. Shorten it.")
        self.draft["reason"] = word.text
        return word.text

    def when(self) -> When:
        taken: list[str] = []
        while self.words and self.peek() not in CLAUSES:
            taken.append(self.take("the time").text)
        return read_when(taken, self.now, self.zone)

    def amount(self) -> Amount:
        if self.skip("to"):
            amount = Amount(self._number(_NUMBER))
        elif self.skip("by"):
            amount = Amount(self._number(_CHANGE), relative=True)
        elif self.peek() in {"up", "down"}:
            sign = 1 if self.take("up").key == "up" else -1
            amount = Amount(sign * self._number(_NUMBER), relative=True)
        elif _NUMBER.fullmatch(self.peek()):
            _refuse(f"{self.peek()}: say `to` before the number.", wrong=self.peek(), right=f"to {self.peek()}")
        else:
            word = self.take("`to` and a number")
            _refuse(f"{_shown(word)}: is not understood here. Say how many: to 20, or by +5.")
        if amount.relative and amount.number == 0:
            _refuse("A change by 0 changes nothing. Say how many more or fewer.")
        self.draft["number"] = str(amount)
        return amount

    def _number(self, pattern: re.Pattern[str]) -> int:
        word = self.take("the number")
        if word.quoted or not pattern.fullmatch(word.text) or abs(int(word.text)) > MOST_CHILDREN:
            _refuse(f"{_shown(word)}: is no number of servers: whole, in digits, at most {MOST_CHILDREN}.")
        return int(word.text)


def _refuse(text: str, *, wrong: str | None = None, right: str | None = None) -> NoReturn:
    raise _Wrong(text, wrong=wrong, right=right)


class _Wrong(InvalidRequest):
    """What is wrong, and the word that would be right, if one is near."""

    def __init__(self, text: str, *, wrong: str | None = None, right: str | None = None) -> None:
        super().__init__(text)
        self.wrong, self.right = wrong, right


def parse(text: str, now: datetime, zone: str, services: Collection[str] = ()) -> Command | Complaint:
    """
    Read *text*, typed at *now* by somebody whose clocks are those of *zone*.

    With *services* an unknown one is complained about; without, any name that could be one is taken.
    """
    try:
        words = split_words(text)
    except InvalidRequest as error:
        return Complaint(str(error))
    if not words:
        return Card()
    reader = _Reader(words[1:], now, zone, services)
    verb = words[0].key
    read = _VERBS.get(verb)
    if read is None:
        return _unknown_verb(words, now, zone, services)
    try:
        command = read(reader)
        if reader.words:
            _refuse(f"{_shown(reader.words[0])}: is not understood after the rest of the command.")
    except AmbiguousTime as error:
        return _ask_which(error, words, verb, reader)
    except InvalidRequest as error:
        meant = _mean(error, words, now, zone, services)
        draft = sketch(words, services) | reader.draft | (draft_of(meant) if meant is not None else {})
        return Complaint(str(error), verb, USAGES[verb].form, None if meant is None else str(meant), (), draft)
    return command


def _unknown_verb(words: Sequence[Word], now: datetime, zone: str, services: Collection[str]) -> Complaint:
    verb = words[0].key
    near = difflib.get_close_matches(verb, _VERBS, n=1, cutoff=0.6) if verb else []
    text = f"{_shown(words[0])}: there is no such command. There are: {', '.join(USAGES)}."
    if not near:
        return Complaint(text)
    guess = parse(_write([Word(near[0]), *words[1:]]), now, zone, services)
    if isinstance(guess, Complaint):
        return replace(guess, text=f"{text} Taken for `{near[0]}`: {guess.text}", choices=())
    return Complaint(text, near[0], USAGES[near[0]].form, str(guess), (), draft_of(guess))


def _mean(
    error: InvalidRequest, words: Sequence[Word], now: datetime, zone: str, services: Collection[str]
) -> Command | None:
    """The whole command that was probably meant."""
    if not isinstance(error, _Wrong) or error.right is None:
        return None
    swapped = [Word(error.right) if i and word.key == error.wrong else word for i, word in enumerate(words)]
    guess = parse(_write(swapped), now, zone, services)
    if isinstance(guess, Complaint) and guess.meant is not None:
        guess = parse(guess.meant, now, zone, services)
    return None if isinstance(guess, Complaint) else guess


def _ask_which(error: AmbiguousTime, words: Sequence[Word], verb: str, reader: _Reader) -> Complaint:
    found: list[str] = []
    for choice in error.choices:
        guess = _with_time(list(words), verb, reader, choice)
        if guess is not None:
            found.append(str(guess))
    draft = sketch(words, reader.services) | reader.draft
    return Complaint(str(error), verb, USAGES[verb].form, None, tuple(found), draft)


def _with_time(words: list[Word], verb: str, reader: _Reader, choice: When) -> Command | None:
    """Read the same words with their time replaced by one of the two that it may be."""
    mark = "to" if verb == "schedule" else "at"
    start = next((i for i, word in enumerate(words) if word.key == mark and i > 1), None)
    if start is None:
        return None
    end = next((i for i in range(start, len(words)) if words[i].key in CLAUSES), len(words))
    swapped = [*words[: start + 1], *(Word(part) for part in str(choice).split()), *words[end:]]
    guess = parse(_write(swapped), reader.now, reader.zone, reader.services)
    return None if isinstance(guess, Complaint) else guess


def _write(words: Sequence[Word]) -> str:
    return " ".join(quote(word.text) if word.quoted else word.text for word in words)


def _read_help(reader: _Reader) -> Help:
    if not reader.words:
        return Help()
    word = reader.take("the command")
    if word.key not in USAGES:
        near = difflib.get_close_matches(word.key, USAGES, n=1)
        _refuse(f"{_shown(word)}: there is no such command.", wrong=word.key, right=near[0] if near else None)
    return Help(word.key)


def _read_scale(reader: _Reader) -> Scale:
    command = Scale(reader.service(), reader.amount())
    seen: set[str] = set()
    while clause := reader.peek():
        key = {"--dry-run": "dry-run", "in": "at"}.get(clause, clause)
        if key in seen:
            _refuse(f"{clause}: stands there twice. Leave one out.")
        seen.add(key)
        if clause == "in" or reader.skip("at"):
            command = replace(command, at=reader.when())
        elif reader.skip("for"):
            command = replace(command, hold=reader.duration())
        elif reader.skip("because"):
            command = replace(command, reason=reader.reason())
        elif reader.skip("dry-run", "--dry-run"):
            command = replace(command, dry_run=True)
        else:
            word = reader.take("the rest")
            near = difflib.get_close_matches(word.key, ["at", "for", "because", "dry-run"], n=1)
            _refuse(f"{_shown(word)}: is not understood here.", wrong=word.key, right=near[0] if near else None)
    return command


def _read_schedule(reader: _Reader) -> Command:
    action = reader.take("list, cancel or move").key
    match action:
        case "list":
            return ScheduleList(reader.service() if reader.words else None)
        case "cancel":
            return ScheduleCancel(reader.id())
        case "move":
            name = reader.id()
            if not reader.skip("to"):
                _refuse("Say `to` and the new time after the ID.")
            return ScheduleMove(name, reader.when())
        case _:
            near = difflib.get_close_matches(action, ["list", "cancel", "move"], n=1)
            text = "After schedule comes list, cancel or move."
            _refuse(text, wrong=action, right=near[0] if near else None)


def _read_approve(reader: _Reader) -> Approve:
    name = reader.id()
    if not reader.skip("break-glass", "--break-glass"):
        return Approve(name)
    return Approve(name, _because(reader))


def _because(reader: _Reader) -> str:
    if not reader.skip("because"):
        _refuse('A reason is wanted: because "TEXT".')
    return reader.reason()


def _read_log(reader: _Reader) -> Log:
    about: str | None = None
    if reader.words and reader.peek() != "since":
        word = reader.take("a service, an ID or a person")
        if not word.quoted and _USER.fullmatch(word.text):
            about = word.text
        elif not word.quoted and (_ID.fullmatch(word.key) or _SERVICE.fullmatch(word.key)):
            about = word.key
        else:
            _refuse(f"{_shown(word)}: is no service, no ID and no person.")
    return Log(about, reader.duration() if reader.skip("since") else None)


def _shown(word: Word) -> str:
    text = word.text if len(word.text) <= 40 else f"{word.text[:37]}..."  # noqa: PLR2004 - a line's share
    return f'"{text}"' if word.quoted else text


_VERBS: Mapping[str, Callable[[_Reader], Command]] = {
    "status": lambda reader: Status(reader.service() if reader.words else None),
    "plan": lambda reader: Plan(reader.service(), reader.amount()),
    "scale": _read_scale,
    "schedule": _read_schedule,
    "approve": _read_approve,
    "deny": lambda reader: Deny(reader.id(), _because(reader)),
    "cancel": lambda reader: Cancel(reader.id()),
    "retry": lambda reader: Retry(reader.id()),
    "rollback": lambda reader: Rollback(reader.id()),
    "lock": lambda reader: Lock(reader.service(), _because(reader)),
    "unlock": lambda reader: Unlock(reader.service()),
    "log": _read_log,
    "whoami": lambda _: Whoami(),
    "help": _read_help,
}

__all__ = ["Command", "Complaint", "parse"]

"""
Read a TOML text into frozen dataclasses; say of all that is wrong which line, which key, and what would be right.

Standard library only, because every command pays for this import before it does anything. A field's type is its
contract, `Annotated` with a `Form` where a text must look like something; bounds and choices stand in its metadata
(see `bounded` and `one_of`). An unknown key is a problem.
"""

import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

T = TypeVar("T")

KeyPath = tuple[str, ...]

_LONGEST = timedelta(days=366)
"""Of any duration: far beyond what is waited for here, and far within what can be added to a date."""
_INTEGERS = range(-(1 << 63), 1 << 63)
"""Those that TOML has; Python's parser reads any."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_HEADER = re.compile(r"\s*\[\[?\s*(?P<name>[^\]]+?)\s*\]\]?")
_KEY = re.compile(
    r"\s*(?P<name>(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file."""

    path: KeyPath
    text: str

    def render(self, source: str) -> str:
        """Say it with its line in *source* and its key."""
        line = find_line(source, self.path)
        return f"line {line}: {'.'.join(self.path)}{self.text}" if line else f"{'.'.join(self.path)}{self.text}"


@dataclass(frozen=True, slots=True)
class Form:
    """What a value must look like beyond its type, as in `Annotated[str, Form(...)]`."""

    # Any: the annotated type says what comes in.
    fits: Callable[[Any], bool]
    wanted: str
    """What would be right, for a message."""


def bounded(
    default: Any,  # noqa: ANN401 - as dataclasses.field, whose type is the field's own
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Any:  # noqa: ANN401 - as above
    """Declare a number's field with bounds; durations are bounded in seconds."""
    return field(default=default, metadata={"at_least": at_least, "above": above, "at_most": at_most})


def one_of(default: str, *choices: str) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a word's field and the words that it may be."""
    return field(default=default, metadata={"choices": choices})


def read_table(cls: type[T], table: Mapping[str, object], problems: list[Problem], path: KeyPath = ()) -> T | None:
    """Read *table* as *cls*; what is wrong is added to *problems*, and then the answer is None."""
    before = len(problems)
    hints = typing.get_type_hints(cls, include_extras=True)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for key, raw in table.items():
        where = (*path, key)
        if key not in known:
            problems.append(Problem(where, _unknown(key, known)))
            continue
        try:
            value = _read(hints[key], raw, problems, where)
            values[key] = _bound(value, raw, known[key])
        except ValueError as error:
            problems.append(Problem(where, f" = {_shown(raw)}: {error}."))
    missing = [n for n, f in known.items() if n not in table and f.default is MISSING and f.default_factory is MISSING]
    problems.extend(Problem((*path, name), ": is missing.") for name in missing)
    return cls(**values) if len(problems) == before else None


def parse_toml(text: str) -> dict[str, object]:
    """Parse *text*; raises ValueError that names the line and shows it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        reason = re.sub(r"\s*\(at .*\)$", "", str(error))
        lines = text.splitlines() or [""]
        number = int(found[1]) if found else len(lines)
        shown = lines[min(number, len(lines)) - 1].strip()
        message = f"line {number}: this is not TOML: {reason}, in: {shown}"
        raise ValueError(message) from error


def merge_tables(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Lay one table over another, key by key and table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            merged[key] = merge_tables(cast("dict[str, object]", under), cast("dict[str, object]", value))
        else:
            merged[key] = value
    return merged


def find_line(source: str, path: KeyPath) -> int | None:
    """Find the line (from 1) that sets *path*, or the nearest table around it."""
    places: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(source.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split(header["name"])
            places.setdefault(table, number)
        elif key := _KEY.match(line):
            places.setdefault((*table, *_split(key["name"])), number)
    while path:
        if path in places:
            return places[path]
        path = path[:-1]
    return None


def _split(name: str) -> KeyPath:
    return tuple(a or b or c for a, b, c in _PART.findall(name))


def _unknown(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return (
        f": no such key. Did you mean `{near[0]}`?"
        if near
        else f": no such key. There are: {', '.join(sorted(known))}."
    )


def _read(wanted: Any, raw: object, problems: list[Problem], path: KeyPath) -> object:  # noqa: ANN401 - a type, or a union of types
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in {typing.Union, types.UnionType}:
        # Optional is the only union; TOML has no null, so the empty text stands for it.
        return None if raw == "" else _read(next(a for a in args if a is not types.NoneType), raw, problems, path)
    if origin is Annotated:
        return _formed(_read(args[0], raw, problems, path), args[1])
    if is_dataclass(wanted) and isinstance(wanted, type):
        return read_table(wanted, _table(raw), problems, path)
    if origin is dict:
        return {name: _guarded(args[1], inner, problems, (*path, name)) for name, inner in _table(raw).items()}
    if origin is tuple:
        if not isinstance(raw, list):
            message = f"a list is wanted, such as [{_shown(raw)}]"
            raise ValueError(message)
        return tuple(_read(args[0], inner, problems, path) for inner in cast("list[object]", raw))
    _refuse_odd_number(raw)
    return _SCALARS[wanted](raw)


def _formed(value: object, form: Form) -> object:
    if not form.fits(value):
        raise ValueError(form.wanted)
    return value


def _refuse_odd_number(raw: object) -> None:
    if (isinstance(raw, float) and not math.isfinite(raw)) or (isinstance(raw, int) and raw not in _INTEGERS):
        message = "a finite number of at most 64 bits is wanted"
        raise ValueError(message)


def _guarded(wanted: Any, raw: object, problems: list[Problem], path: KeyPath) -> object:  # noqa: ANN401 - as _read
    try:
        return _read(wanted, raw, problems, path)
    except ValueError as error:
        problems.append(Problem(path, f" = {_shown(raw)}: {error}."))
        return None


def _table(raw: object) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        message = "a table of keys is wanted"
        raise ValueError(message)
    return cast("Mapping[str, object]", raw)


def _whole(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        message = "a whole number is wanted, without quotes"
        raise ValueError(message)
    return raw


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        message = "a number is wanted, without quotes"
        raise ValueError(message)
    return float(raw)


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        message = "true or false is wanted, without quotes"
        raise ValueError(message)
    return raw


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        message = f'a text in quotes is wanted, such as "{raw}"'
        raise ValueError(message)
    return raw


def _path(raw: object) -> Path:
    path = Path(_text(raw))
    if not path.is_absolute() or "\0" in str(path):
        message = "a path from the root is wanted, one that begins with /"
        raise ValueError(message)
    return path


def _duration(raw: object) -> timedelta:
    seconds: float | None = None
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        seconds = raw
    elif isinstance(raw, str) and (found := _DURATION.fullmatch(raw.strip())):
        seconds = float(found[1]) * _UNITS[found[2]]
    if seconds is None:
        message = 'a duration is wanted: seconds as a number, or a text such as "30s" or "10m"'
        raise ValueError(message)
    if abs(seconds) > _LONGEST.total_seconds():
        message = f"a duration of at most {_LONGEST.days} days is wanted"
        raise ValueError(message)
    return timedelta(seconds=seconds)


def _address(raw: object) -> IPv4Address:
    try:
        return IPv4Address(_text(raw))
    except ValueError as error:
        message = 'an IPv4 address is wanted, such as "10.77.1.1"'
        raise ValueError(message) from error


def _network(raw: object) -> IPv4Network:
    try:
        return IPv4Network(_text(raw))
    except ValueError as error:
        message = 'an IPv4 network with its prefix length is wanted, such as "10.77.0.0/22", without host bits'
        raise ValueError(message) from error


_SCALARS: dict[object, Callable[[object], object]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _flag,
    Path: _path,
    timedelta: _duration,
    IPv4Address: _address,
    IPv4Network: _network,
}


def _bound(value: object, raw: object, declared: "Field[Any]") -> object:
    bounds = declared.metadata
    choices: tuple[str, ...] = bounds.get("choices", ())
    if choices and value not in choices:
        near = difflib.get_close_matches(str(raw), choices, n=1)
        message = f"one of {', '.join(choices)} is wanted" + (f", and {near[0]} is the nearest" if near else "")
        raise ValueError(message)
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(number, (int, float)):
        return value
    low, above, high = bounds.get("at_least"), bounds.get("above"), bounds.get("at_most")
    if (
        (low is not None and number < low)
        or (above is not None and number <= above)
        or (high is not None and number > high)
    ):
        parts = [f"at least {low:g}" if low is not None else "", f"more than {above:g}" if above is not None else ""]
        parts.append(f"at most {high:g}" if high is not None else "")
        unit = " seconds" if isinstance(value, timedelta) else ""
        message = f"{' and '.join(p for p in parts if p)}{unit} is wanted"
        raise ValueError(message)
    return value


def _shown(raw: object) -> str:
    if isinstance(raw, list):
        text = f"[{', '.join(_shown(inner) for inner in cast('list[object]', raw))}]"
    else:
        text = f'"{raw}"' if isinstance(raw, str) else str(raw).lower() if isinstance(raw, bool) else str(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - fits a terminal's line

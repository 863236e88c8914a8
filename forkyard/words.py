"""
Typed text into words: mend what keyboards and Slack make of it, then split it.

Pure, and never clever about meaning. Mending is done until nothing changes any more, so that what was mended once and
is read again stays as it is; the grammar's promise that an echo reads as itself rests on that.
"""

import re
import unicodedata
from dataclasses import dataclass

from forkyard.errors import InvalidRequest

MOST_CHARACTERS = 3000
"""As many as Slack lets through in a message's section; a command is far shorter."""

_QUOTES = {ord(mark): '"' for mark in "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u301d\u301e\uff02"} | {
    ord(mark): "'" for mark in "\u2018\u2019\u201a\u201b\u2032\u00b4\uff07"
}
_LONG_DASHES = "\u2014\u2015\u2e3a\u2e3b"
_DASHES = {ord(mark): "-" for mark in "\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d" + _LONG_DASHES}
_LINK = re.compile(r"<((?:https?://|mailto:|tel:)[^<>|]*)(?:\|([^<>]*))?>")
_MENTION = re.compile(r"<([@#!])(?:subteam\^)?([^<>|]*)(?:\|([^<>]*))?>")
_JOINER = "\u200d"
"""Holds the parts of an emoji together; every other invisible character only hides what is there."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or one quotation without its marks."""

    text: str
    quoted: bool = False

    @property
    def key(self) -> str:
        """The word as a keyword; a quotation is none."""
        return "" if self.quoted else self.text.lower()


def split_words(text: str) -> list[Word]:
    """
    Mend *text* and split it at spaces; a quotation is one word.

    Raises:
        InvalidRequest: too long, or a quotation has no end.
    """
    if len(text) > MOST_CHARACTERS:
        message = f"The command has {len(text)} characters; at most {MOST_CHARACTERS} are read. Make it shorter."
        raise InvalidRequest(message)
    rest = mend(text)
    words: list[Word] = []
    while rest := rest.lstrip(" "):
        if rest[0] in "\"'":
            quotation, rest = _take_quotation(rest)
            words.append(Word(quotation, quoted=True))
        else:
            plain, _, rest = rest.partition(" ")
            words.append(Word(_mend_word(plain)))
    return [word for word in words if word.text or word.quoted]


def mend(text: str) -> str:
    """Undo what Slack and phones do to text; what is mended stays as it is when it is mended again."""
    while (better := _mend_once(text)) != text:
        text = better
    return text


def _mend_once(text: str) -> str:
    text = "".join(kept for mark in text if (kept := _visible(mark)))
    text = _LINK.sub(lambda found: found[2] or found[1].removeprefix("mailto:").removeprefix("tel:"), text)
    text = _MENTION.sub(_mention, text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return " ".join(text.translate(_QUOTES).split())


def _mention(found: re.Match[str]) -> str:
    # A person's id is what roles know; a channel's or a group's name is what a reader knows.
    kind, name, shown = found[1], found[2], found[3] or ""
    if kind == "@":
        return f"@{name}"
    return f"{'#' if kind == '#' else '@'}{(shown or name).lstrip('#@')}"


def _visible(mark: str) -> str:
    if mark.isspace():
        return " "
    hidden = unicodedata.category(mark) in {"Cc", "Cf", "Cs"}
    return "" if hidden and mark != _JOINER else mark


def _mend_word(word: str) -> str:
    # Two hyphens are one long dash to a phone.
    if word[:1] in _LONG_DASHES:
        word = f"--{word[1:]}"
    return word.translate(_DASHES).strip("`")


def _take_quotation(text: str) -> tuple[str, str]:
    mark, taken, position = text[0], "", 1
    while position < len(text):
        here, after = text[position], text[position + 1 : position + 2]
        if here == "\\" and after in {mark, "\\"} and after:
            taken += after
            position += 2
            continue
        # A mark inside a word ('it's') is part of the text.
        if here == mark and after in {"", " "}:
            return " ".join(taken.split()), text[position + 1 :]
        taken += here
        position += 1
    message = f"The quotation that begins with {text[:20]} has no end. Close it with {mark}"
    raise InvalidRequest(message)


def quote(text: str) -> str:
    """Write *text* as a quotation that `split_words` reads as the same text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

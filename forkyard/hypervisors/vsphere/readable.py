"""
Answers that can be read whatever a stranger's VM carries.

vCenter passes on what people and guests have written, control characters and broken UTF-8 too, although XML knows
neither. pyVmomi's parser refuses the whole answer for one such character: then one VM's annotation hides every VM.
"""

import codecs
import http.client
import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands in an answer for a character that XML does not know."""
_UNKNOWN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile("&#(?:x([0-9A-Fa-f]{1,8})|([0-9]{1,9}));")
_UNFINISHED = re.compile("&(?:#[0-9A-Fa-fx]{0,9})?$")
_CHUNK, _LAST = 1 << 14, 0x10FFFF


class ReadableResponse(http.client.HTTPResponse):
    """An answer in which every character is one that XML knows."""

    def __init__(self, *args: object, **options: object) -> None:
        """Take what http.client's takes."""
        super().__init__(*args, **options)  # type: ignore[arg-type]  # handed on as they are
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun, self._ready = "", b""
        self._ended = False

    def read(self, amt: int | None = None) -> bytes:
        """Read at most *amt* bytes, or all that is left."""
        while not self._ended and (amt is None or len(self._ready) < amt):
            chunk = super().read(_CHUNK)
            self._ended = not chunk
            self._ready += self._clean(chunk).encode()
        found, self._ready = (self._ready, b"") if amt is None else (self._ready[:amt], self._ready[amt:])
        return found

    def _clean(self, chunk: bytes) -> str:
        text = self._begun + self._decoder.decode(chunk, final=not chunk)
        self._begun = ""
        unfinished = None if not chunk else _UNFINISHED.search(text)
        if unfinished is not None:
            # A reference that goes on in the next chunk.
            self._begun, text = text[unfinished.start() :], text[: unfinished.start()]
        return make_readable(text)


def make_readable(text: str) -> str:
    """Put `REPLACEMENT` for every character, written out or as a reference, that XML does not know."""
    text = _UNKNOWN.sub(REPLACEMENT, text)
    return _REFERENCE.sub(_refer, text) if "&#" in text else text


def _refer(reference: re.Match[str]) -> str:
    number = int(reference[1], 16) if reference[1] else int(reference[2])
    known = number <= _LAST and not _UNKNOWN.match(chr(number))
    return reference[0] if known else REPLACEMENT

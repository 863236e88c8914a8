"""Answers of vCenter with characters that XML does not know: read all the same, and parsed whole."""

import io
from typing import Any
from xml.parsers.expat import ParserCreate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkyard.hypervisors.vsphere.inventory import show_name
from forkyard.hypervisors.vsphere.readable import REPLACEMENT, ReadableResponse, make_readable


class Line:
    """The far end of a connection that has said everything."""

    def __init__(self, said: bytes) -> None:
        """Hold what was said."""
        self._said = said

    def makefile(self, _mode: str) -> io.BytesIO:
        """What http.client reads from."""
        return io.BytesIO(self._said)


def respond(body: bytes, *, chunk: int | None = None) -> ReadableResponse:
    """The response with this body, whole or in chunks."""
    head, sent = f"Content-Length: {len(body)}", body
    if chunk is not None:
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        head, sent = "Transfer-Encoding: chunked", b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in [*parts, b""])
    line: Any = Line(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + sent)
    response = ReadableResponse(line)
    response.begin()
    return response


def parse(response: ReadableResponse) -> str:
    """The text in the document that pyVmomi's parser finds."""
    found: list[str] = []
    parser = ParserCreate()
    parser.CharacterDataHandler = found.append
    parser.ParseFile(response)
    return "".join(found)


@pytest.mark.parametrize(
    "odd", [b"\x0b", b"&#x0b;", b"&#11;", b"\x00", b"\xff", b"&#xD800;", b"&#x110000;", b"\xed\xa0\x80"]
)
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_one_odd_character_leaves_the_rest_readable(odd: bytes, chunk: int | None) -> None:
    text = parse(respond(b"<a><b>before" + odd + b"after</b><c>&#228;&amp;</c></a>", chunk=chunk))
    assert text.startswith("before" + REPLACEMENT)
    assert text.endswith("afterä&")


@given(st.binary(max_size=400), st.integers(1, 50))
def test_whatever_bytes_come_every_piece_is_as_short_as_was_asked_for(body: bytes, amount: int) -> None:
    response, read = respond(body), b""
    while piece := response.read(amount):
        assert len(piece) <= amount
        read += piece
    assert read.decode() == make_readable(body.decode(errors="replace"))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")))
def test_what_xml_knows_is_left_as_it_is(text: str) -> None:
    assert make_readable(text.replace("&", "")) == text.replace("&", "")


@pytest.mark.parametrize(
    ("api", "shown"),
    [("games%2f24", "games/24"), ("a%5Cb", "a\\b"), ("100%25", "100%"), ("%252f", "%2f"), ("plain", "plain")],
)
def test_a_name_is_shown_as_the_client_shows_it(api: str, shown: str) -> None:
    assert show_name(api) == shown

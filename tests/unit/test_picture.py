"""The timeline picture: readable for one child and for a thousand."""

import base64
import itertools
import xml.etree.ElementTree as ET

import pytest

from forkyard.model import Phase
from forkyard.picture import COLOURS, render_data_uri, render_timeline
from forkyard.report import ChildReport, Interval

SVG = "{http://www.w3.org/2000/svg}"


def make_children(number: int) -> list[ChildReport]:
    """Children that forked for a second and were then customized for two."""
    intervals = (Interval(Phase.FORKED, 0.5, 1.5), Interval(Phase.IDENTIFIED, 1.5, 3.5))
    return [ChildReport(f"game-a1b2c3-{n}", Phase.SERVING, intervals=intervals) for n in range(1, number + 1)]


def draw(children: list[ChildReport], title: str = "game: as asked") -> ET.Element:
    """The picture as a tree: so it is well formed."""
    return ET.fromstring(render_timeline(children, title=title))  # noqa: S314 - our own text


@pytest.mark.parametrize("number", [0, 1, 4, 50, 1000])
def test_each_child_has_its_bars_and_the_page_stays_bounded(number: int) -> None:
    picture = draw(make_children(number))
    fills = [bar.get("fill") for row in picture.iter(f"{SVG}g") for bar in row.iter(f"{SVG}rect")]
    assert fills == [COLOURS[Phase.FORKED], COLOURS[Phase.IDENTIFIED]] * number
    assert float(picture.get("height", "0")) < 2200


@pytest.mark.parametrize("number", [1, 4, 50, 1000])
def test_names_never_overlap(number: int) -> None:
    names = [t for t in draw(make_children(number)).iter(f"{SVG}text") if (t.text or "").startswith("game-")]
    heights = [float(name.get("y", "0")) for name in names]
    assert names
    assert all(later - earlier >= 12 for earlier, later in itertools.pairwise(heights))


def test_the_axis_is_in_seconds_and_covers_the_longest_bar() -> None:
    texts = [text.text for text in draw(make_children(2)).iter(f"{SVG}text")]
    assert "seconds" in texts
    assert {"0", "3.5"} <= set(texts)


def test_the_legend_has_the_phases_that_occur_and_no_other() -> None:
    texts = [text.text for text in draw(make_children(1)).iter(f"{SVG}text")]
    assert {"fork", "customize"} <= set(texts)
    assert "drain" not in texts


def test_what_failed_is_marked_by_more_than_a_colour() -> None:
    failed = ChildReport(
        "game-x-1", Phase.RETIRED, intervals=(Interval(Phase.FORKED, 0, 1, ok=False),), error="no <room>"
    )
    picture = draw([failed])
    assert any(bar.get("fill") == "url(#x)" for bar in picture.iter(f"{SVG}rect"))
    assert any((text.text or "").startswith("✗") for text in picture.iter(f"{SVG}text"))
    assert any("no <room>" in (title.text or "") for title in picture.iter(f"{SVG}title"))


def test_names_and_titles_are_text_and_never_markup() -> None:
    picture = draw(make_children(1), title='<script>"x"</script>')
    assert not list(picture.iter(f"{SVG}script"))


def test_the_uri_holds_the_picture() -> None:
    head, _, body = render_data_uri("<svg/>").partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body) == b"<svg/>"

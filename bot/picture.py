"""
The timeline as a PNG: Slack shows no SVG. The same bars and colours as the picture in the Prefect UI.

Pure but for the font, which comes with Pillow.
"""

from collections.abc import Sequence
from io import BytesIO
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from forkyard.picture import COLOURS, WORDS, tick_step
from forkyard.report import STAGES, ChildReport

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1200, 210, 30, 110, 50
MOST_HEIGHT = 1500
INK, FAINT, PAPER = "#1b1b1b", "#d9d9d9", "#ffffff"


def draw_timeline(children: Sequence[ChildReport], *, title: str) -> bytes:
    """Draw the children's intervals, in their order, with *title* above; gives the PNG's bytes."""
    shown = [child for child in children if child.intervals]
    pitch = max(3.0, min(28.0, (MOST_HEIGHT - TOP - BOTTOM) / max(1, len(shown))))
    longest = max((i.end for child in shown for i in child.intervals), default=1.0)
    step = tick_step(longest)
    span = max(step, ceil(longest / step) * step)
    image = Image.new("RGB", (WIDTH, int(TOP + pitch * max(1, len(shown)) + BOTTOM)), PAPER)
    pen = ImageDraw.Draw(image)
    scale = (WIDTH - LEFT - RIGHT) / span
    pen.text((20, 16), _fit(title, 110), fill=INK, font=_font(22))
    _draw_legend(pen, shown)
    _draw_axis(pen, image.height, span, step, scale)
    for row, child in enumerate(shown):
        _draw_row(pen, child, TOP + row * pitch, pitch, scale, named=row % ceil(15 / pitch) == 0)
    kept = BytesIO()
    image.save(kept, "PNG", optimize=True)
    return kept.getvalue()


def _draw_row(
    pen: ImageDraw.ImageDraw, child: ChildReport, top: float, pitch: float, scale: float, *, named: bool
) -> None:
    if named:
        mark = "x " if child.error else ""
        pen.text((LEFT - 10, top + pitch / 2), _fit(mark + child.name, 26), fill=INK, font=_font(14), anchor="rm")
    thick = max(2.0, pitch * 0.72)
    for interval in child.intervals:
        left = LEFT + interval.start * scale
        box = (left, top, max(left + 1, LEFT + interval.end * scale), top + thick)
        pen.rectangle(box, fill=COLOURS.get(interval.phase, "#8c8c8c"))
        if not interval.ok:
            _hatch(pen, box)


def _hatch(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    for x in range(int(left), int(right), 6):
        pen.line((x, bottom, min(x + (bottom - top), right), top), fill=INK, width=1)


def _draw_legend(pen: ImageDraw.ImageDraw, children: Sequence[ChildReport]) -> None:
    used = {i.phase for child in children for i in child.intervals}
    x = 20.0
    for phase in (phase for phase in STAGES if phase in used):
        pen.rectangle((x, 58, x + 16, 74), fill=COLOURS[phase])
        pen.text((x + 24, 66), WORDS[phase], fill=INK, font=_font(15), anchor="lm")
        x += 52 + pen.textlength(WORDS[phase], font=_font(15))


def _draw_axis(pen: ImageDraw.ImageDraw, height: int, span: float, step: float, scale: float) -> None:
    for number in range(round(span / step) + 1):
        x = LEFT + number * step * scale
        pen.line((x, TOP - 8, x, height - BOTTOM + 6), fill=FAINT)
        pen.text((x, height - BOTTOM + 20), f"{number * step:g}", fill=INK, font=_font(14), anchor="mm")
    pen.text((LEFT - 10, height - BOTTOM + 20), "seconds", fill=INK, font=_font(14), anchor="rm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

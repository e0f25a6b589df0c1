"""Plans as SVG for notebooks: the drawing in characters (`jaxpaint.plans.drawing`), its strokes and words drawn out.

Nothing is drawn on a ground of its own and no stroke is near black or white, so that light and dark pages show it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from jaxpaint.plans.drawing import draw
from jaxpaint.plans.nodes import Series

_CELL = 8, 20  # pixels
# Which neighbours a character is joined to.
_JOINED = {
    **{"│": "ud", "─": "lr", "╭": "rd", "╮": "ld", "╰": "ur", "╯": "ul"},
    **{"├": "udr", "┤": "udl", "┬": "lrd", "┴": "lru", "┼": "udlr"},
}
_ENDS = {"u": (0.5, 0), "d": (0.5, 1), "l": (0, 0.5), "r": (1, 0.5)}
_CORNERS = "╭╮╰╯"
_RUN = re.compile(rf"[^\s{''.join(_JOINED)}]+(?: [^\s{''.join(_JOINED)}]+)*")
_SAID = re.compile(r"input|output|mean|sum|→|….*|\d+ times|update .*")
_GREY, _BLUE = "#7a7f87", "#2f6db5"


def svg(root: Series, width: int = 80) -> str:
    """The drawing of at most `width` columns as an SVG element."""
    lines = draw(root, width).split("\n")
    column, row = _CELL
    size = column * max(map(len, lines)), row * len(lines)
    strokes, words, last = [], [], len(lines) - 1
    for number, line in enumerate(lines):
        for place, mark in enumerate(line):
            if mark in _JOINED:
                bounded = [near[place : place + 1] == "─" for near in (lines[number - 1], lines[min(number + 1, last)])]
                strokes.append(_stroke(mark, column * place, row * number, bounded))
        for run in _RUN.finditer(line):
            start = run.start()
            for part in re.split(r"( → | →$)", run[0]):
                if part.strip():
                    indent = len(part) - len(part.lstrip())
                    words.append(_word(part.strip(), column * (start + indent), row * number))
                start += len(part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -2 {size[0] + 8} {size[1] + 4}" width="{size[0] + 8}" '
        f'height="{size[1] + 4}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">'
        f'<path d="{"".join(strokes)}" fill="none" stroke="{_GREY}" stroke-width="1.5"/>{"".join(words)}</svg>'
    )


def _stroke(mark: str, x: int, y: int, bounded: Sequence[bool]) -> str:
    """`bounded` tells whether the line of a box lies above, and below: a stroke goes on to it."""
    column, row = _CELL
    more = {"u": -0.5 * bounded[0], "d": 0.5 * bounded[1]}
    ends = [
        f"{x + column * _ENDS[side][0]:g} {y + row * (_ENDS[side][1] + more.get(side, 0)):g}" for side in _JOINED[mark]
    ]
    middle = f"{x + column / 2:g} {y + row / 2:g}"
    if mark in _CORNERS:
        return f"M{ends[0]}Q{middle} {ends[1]}"
    return "".join(f"M{middle}L{end}" for end in ends)


def _word(text: str, x: int, y: int) -> str:
    """Layers on a ground of their own; what is said about them without."""
    column, row = _CELL
    width, middle = column * len(text), y + row / 2
    said = _SAID.fullmatch(text) is not None
    place = f'x="{x - 3}" y="{y + 1}" width="{width + 6}" height="{row - 2}"'
    ground = "" if said else f'<rect {place} rx="4" fill="{_BLUE}"/>'
    return (
        f'{ground}<text x="{x + width / 2:g}" y="{middle + 4:g}" text-anchor="middle" textLength="{width}" '
        f'lengthAdjust="spacingAndGlyphs" fill="{_GREY if said else "#ffffff"}">{escape(text)}</text>'
    )

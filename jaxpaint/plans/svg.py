"""A plan's drawing as SVG: the lines and words of the drawing as text, in a page that scales."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 9, 18  # of a character, in the picture's units
# Which halves of its cell a character draws: left, right, up, down.
_HALVES = {
    **{"─": "lr", "│": "ud", "╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu"},
    **{"┬": "lrd", "┴": "lru", "├": "rud", "┤": "lud", "┼": "lrud"},
}
_ENDS = {"l": (-0.5, 0.0), "r": (0.5, 0.0), "u": (0.0, -0.5), "d": (0.0, 0.5)}


def svg(drawing: str) -> str:
    """The drawing (`Plan.draw`) as one SVG document, in the colour of the text that it stands in."""
    lines = drawing.splitlines()
    width, height = (max(map(len, lines)) + 2) * WIDTH, (len(lines) + 1) * HEIGHT
    strokes, words = [], []
    for row, line in enumerate(lines):
        y = (row + 1) * HEIGHT
        for column, character in enumerate(line):
            x = (column + 1.5) * WIDTH
            for half in _HALVES.get(character, ""):
                right, down = _ENDS[half]
                strokes.append(f"M{x:g} {y:g}L{x + right * WIDTH:g} {y + down * HEIGHT:g}")
        for word in re.finditer(rf"[^ {''.join(_HALVES)}](?: ?[^ {''.join(_HALVES)}])*", line):
            x, length = (word.start() + 1) * WIDTH, len(word[0]) * WIDTH
            words.append(f'<text x="{x}" y="{y + 5}" textLength="{length}">{escape(word[0])}</text>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f'<path d="{"".join(strokes)}" fill="none" stroke="currentColor" stroke-linecap="round"/>',
            '<g font-family="ui-monospace, monospace" font-size="15" fill="currentColor">',
            *words,
            "</g>",
            "</svg>",
        ]
    )

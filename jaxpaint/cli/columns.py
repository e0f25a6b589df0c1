"""Rows under each other, in lines of at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, GAP = 80, "  "


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first cells to the left, and cut where a line has no room for them; the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = WIDTH - sum(len(GAP) + width for width in widths[1:])
    widths[0] = min(widths[0], max(left, len(rows[0][0])))
    return [
        GAP.join([_cut(row[0], widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"

"""What a page is put together from: figures and tables, in files beside it and as the page shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.report import tables
from jaxpaint.report.figures import save
from jaxpaint.report.figures.style import Drawn
from jaxpaint.report.tables import Table


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: the PNG inside the page, and both files beside it."""

    drawn: Drawn
    anchor: str
    png: str
    pdf: str
    data: str

    @property
    def heading(self) -> str:
        """The figure's title, with the paper's number where it has one."""
        number, title = self.drawn.number, self.drawn.title
        return f"Figure {number}: {title}" if number[-1].isdigit() else title


@dataclass(frozen=True)
class Listing:
    """A table as the page shows it, its rows as texts, and its files."""

    table: Table
    rows: list[list[str]] | None
    csv: str
    markdown: str


def pictures(drawn: Sequence[Drawn], model: str, folder: Path, prefix: str) -> list[Picture]:
    """Draws figures into a folder `prefix` of the page's figures."""
    where = folder / "figures" / prefix
    if drawn:
        where.mkdir(parents=True, exist_ok=True)
    found = []
    for figure in drawn:
        png, pdf = save(figure, model, where)
        data = base64.b64encode(png.read_bytes()).decode("ascii")
        anchor = "-".join(part for part in (prefix, png.stem) if part)
        found.append(Picture(figure, anchor, link(png, folder), link(pdf, folder), data))
    return found


def saved(table: Table, rows: list[list[str]] | None, folder: Path, prefix: str) -> Listing:
    """Writes a table into a folder `prefix` of the page's tables; `rows` are what the page shows of it."""
    where = folder / "tables" / prefix
    where.mkdir(parents=True, exist_ok=True)
    as_csv, as_markdown = tables.save(table, where)
    return Listing(table, rows, link(as_csv, folder), link(as_markdown, folder))


def link(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()

"""What a page is put together from: figures and tables, inside the page and in files beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.report import tables
from jaxpaint.report.figures import file_stem, save
from jaxpaint.report.figures.style import Drawn
from jaxpaint.report.tables import Table

MOST_ROWS = 1000  # of a table on the page; its CSV has all
MOST_BYTES = 400_000  # of a table's CSV inside the page; a longer one lies beside it alone


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: the SVG inside the page, and the PDF beside it."""

    drawn: Drawn
    anchor: str
    svg: str
    pdf: str

    @property
    def of_paper(self) -> str:
        """The paper's number, empty where the figure is none of the paper's."""
        return f"Figure {self.drawn.number}" if self.drawn.number[-1].isdigit() else ""


@dataclass(frozen=True)
class Listing:
    """A table as the page shows it: its rows as texts, without columns in which none has any.

    `csv` is its file, `data` a URI that holds it, empty where it is too long.
    """

    table: Table
    columns: tuple[str, ...]
    rows: list[list[str]]
    csv: str
    data: str
    anchor: str


def pictures(drawn: Sequence[Drawn], model: str, folder: Path, prefix: str) -> list[Picture]:
    """Draws figures into a folder `prefix` of the page's figures."""
    where = folder / "figures" / prefix
    if drawn:
        where.mkdir(parents=True, exist_ok=True)
    found = []
    for figure in drawn:
        anchor = "-".join(part for part in (prefix, file_stem(figure)) if part)
        pdf, svg = save(figure, model, where, anchor)
        found.append(Picture(figure, anchor, svg, link(pdf, folder)))
    return found


def saved(table: Table, rows: list[list[str]], folder: Path, prefix: str) -> Listing:
    """Writes a table into a folder `prefix` of the page's tables; `rows` are what the page shows of it."""
    where = folder / "tables" / prefix
    where.mkdir(parents=True, exist_ok=True)
    as_csv, _ = tables.save(table, where)
    content = as_csv.read_bytes()
    data = f"data:text/csv;base64,{base64.b64encode(content).decode('ascii')}" if len(content) <= MOST_BYTES else ""
    anchor = "-".join(part for part in ("table", prefix, as_csv.stem) if part)
    filled = [place for place in range(len(table.columns)) if any(row[place] for row in rows)]
    columns = tuple(table.columns[place] for place in filled)
    rows = [[row[place] for place in filled] for row in rows]
    return Listing(table, columns, rows, link(as_csv, folder), data, anchor)


def link(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()

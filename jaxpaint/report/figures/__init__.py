"""Every figure that a study has data for: what each shows, and how it is drawn and saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.base.words import text_digest
from jaxpaint.report.figures import style
from jaxpaint.report.figures.analyses import CURVES, MAPS
from jaxpaint.report.figures.benchmarks import BENCHMARKS
from jaxpaint.report.figures.finetuned import FINETUNED
from jaxpaint.report.figures.heatmaps import BLOCKS, ITERATIONS, SIMILARITIES, SIMILARITY, STATES
from jaxpaint.report.figures.latency import LATENCY
from jaxpaint.report.figures.layers import LAYERS
from jaxpaint.report.figures.models import ACROSS
from jaxpaint.report.figures.search import SEARCH
from jaxpaint.report.figures.strategies import ALL_STRATEGIES
from jaxpaint.report.figures.style import RC, Drawn
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (
    *(SEARCH, LAYERS, SIMILARITY, BENCHMARKS, ITERATIONS, BLOCKS, ALL_STRATEGIES, LATENCY),
    *(FINETUNED, STATES, CURVES, MAPS),
)
"""In the order of the page."""
ACROSS_MODELS = (ACROSS, SIMILARITIES)
DOTS_PER_INCH = 160
PIXELS_PER_POINT = 96 / 72  # of a page
CHARACTERS_PER_INCH = 12  # of titles
SLUG_CHARACTERS = 120
# Of a figure's nominal size, across and up: so that its letters are as large as the page's, and still read on a phone.
SCALE = (0.76, 0.84)
# Without the time, so that equal data gives equal files.
_HOW: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": DOTS_PER_INCH},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
# Those of figures that are the page's too, so that they follow it into the dark.
_PAGE_COLOURS = {"#000000": "ink", "#ffffff": "paper", style.GREY: "soft", style.GRID: "line"}


def study_figures(measured: Measurements) -> list[Drawn]:
    """The figures of one study, and of what was fine-tuned of it."""
    return [drawn for kind in KINDS for drawn in kind.draw(measured)]


def figures_across(all_measured: Sequence[Measurements]) -> list[Drawn]:
    """The figures that need several models."""
    return [drawn for kind in ACROSS_MODELS for drawn in kind.draw(all_measured)]


def paper_figures() -> dict[str, str]:
    """The paper's figures by number, and what a study needs to have run for each."""
    needs = {number: need for kind in (*KINDS, *ACROSS_MODELS) for number, need in kind.needs.items()}
    return dict(sorted(needs.items(), key=lambda item: int(item[0])))


def save(figure: Drawn, model: str, folder: Path, salt: str = "") -> tuple[Path, str]:
    """Draws a figure into `folder` as SVG and, titled, as PDF; equal data gives equal files.

    Returns the PDF's path, and the SVG as a part of a page, where `salt` tells its ids from other figures'.
    """
    stem = file_stem(figure)
    pdf, svg = folder / f"{stem}.pdf", folder / f"{stem}.svg"
    with _drawn(figure, salt or stem) as canvas:
        _save(canvas, svg, "svg")
        _title(canvas, figure, model)
        _save(canvas, pdf, "pdf")
    return pdf, inline(svg.read_text(encoding="utf-8"))


def file_stem(figure: Drawn) -> str:
    """What a figure's files are called, with the paper's number where it has one."""
    number = f"{int(figure.number):02}" if figure.number.isdigit() else ""
    return "-".join(part for part in ("figure", number, _file_name(figure.slug)) if part)


def as_bytes(figure: Drawn, model: str, kind: str) -> bytes:
    """A figure, titled, as the content of a file of `kind`: png or pdf."""
    content = BytesIO()
    with _drawn(figure, figure.slug) as canvas:
        _title(canvas, figure, model)
        _save(canvas, content, kind)
    return content.getvalue()


def inline(svg: str) -> str:
    """An SVG file of matplotlib as a part of a page: in the page's own colours, with no id but those that it uses.

    It is about as large as it was drawn, so that its letters are as large as the page's.
    """
    found = svg[svg.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>\s*", "", found, flags=re.DOTALL)
    # Its one rule would be one of the whole page: the page has it for figures alone.
    found = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", found, flags=re.DOTALL)
    width = PIXELS_PER_POINT * float(re.search(r'<svg[^>]* width="([\d.]+)pt"', found)[1])  # type: ignore[index]
    size = f'style="max-width: {1.12 * width:.0f}px; min-width: {0.74 * width:.0f}px"'
    found = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', rf"\1 {size}", found, count=1)
    found = re.sub(r'<(g|svg)([^>]*?) id="[^"]*"', r"<\1\2", found)
    for colour, name in _PAGE_COLOURS.items():
        found = re.sub(f'{colour}(?=[;"])', f"var(--{name})", found, flags=re.IGNORECASE)
    return found.strip()


@contextmanager
def _drawn(figure: Drawn, salt: str) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC | {"svg.hashsalt": salt}):
        canvas = Figure(figsize=np.multiply(SCALE, figure.size).tolist(), layout="constrained")
        figure.draw(canvas)
        yield canvas


def _title(canvas: Figure, figure: Drawn, model: str) -> None:
    title = f"{model}: {figure.title}" if model else figure.title
    canvas.suptitle(textwrap.fill(title, int(SCALE[0] * figure.size[0] * CHARACTERS_PER_INCH)), fontsize="medium")


def _save(canvas: Figure, file: Path | BytesIO, kind: str) -> None:
    canvas.savefig(file, format=kind, **_HOW[kind])


def _file_name(slug: str) -> str:
    """Of a slug, which names a task of any name: the same, unless that is no file's."""
    plain = re.sub(r"[^\w.-]+", "-", slug)[:SLUG_CHARACTERS]
    return plain if plain == slug else f"{plain}-{text_digest(slug)[:8]}"

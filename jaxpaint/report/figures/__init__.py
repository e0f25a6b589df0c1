"""Every figure that a study has data for: what each shows, and how it is drawn and saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaint.base.words import text_digest
from jaxpaint.report.figures.analyses import CURVES, MAPS
from jaxpaint.report.figures.benchmarks import BENCHMARKS
from jaxpaint.report.figures.finetuned import FINETUNED
from jaxpaint.report.figures.heatmaps import BLOCKS, ITERATIONS, SIMILARITIES, SIMILARITY, STATES
from jaxpaint.report.figures.latency import LATENCY
from jaxpaint.report.figures.layers import LAYERS
from jaxpaint.report.figures.search import SEARCH
from jaxpaint.report.figures.strategies import ALL_STRATEGIES, SKIP_ACROSS
from jaxpaint.report.figures.style import RC, Drawn
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (
    *(SEARCH, LAYERS, SIMILARITY, BENCHMARKS, ITERATIONS, BLOCKS, ALL_STRATEGIES, LATENCY),
    *(FINETUNED, STATES, CURVES, MAPS),
)
"""In the order of the page."""
ACROSS_MODELS = (SKIP_ACROSS, SIMILARITIES)
DOTS_PER_INCH = 160
CHARACTERS_PER_INCH = 10  # of titles
SLUG_CHARACTERS = 120


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


def save(figure: Drawn, model: str, folder: Path) -> tuple[Path, Path]:
    """Draws a figure into `folder` as PNG and PDF, titled; equal data gives equal files. Returns both paths."""
    number = f"{int(figure.number):02}" if figure.number.isdigit() else ""
    stem = "-".join(part for part in ("figure", number, _file_name(figure.slug)) if part)
    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    with _drawn(figure, model) as canvas:
        _save(canvas, png, "png")
        _save(canvas, pdf, "pdf")
    return png, pdf


def as_bytes(figure: Drawn, model: str, kind: str) -> bytes:
    """A figure as `save` draws it, as the content of a file of `kind`: png or pdf."""
    content = BytesIO()
    with _drawn(figure, model) as canvas:
        _save(canvas, content, kind)
    return content.getvalue()


@contextmanager
def _drawn(figure: Drawn, model: str) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        canvas = Figure(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        title = f"{model}: {figure.title}" if model else figure.title
        canvas.suptitle(textwrap.fill(title, int(figure.size[0] * CHARACTERS_PER_INCH)), fontsize=12)
        yield canvas


def _save(canvas: Figure, file: Path | BytesIO, kind: str) -> None:
    own = {"dpi": DOTS_PER_INCH} if kind == "png" else {"metadata": {"CreationDate": None}}
    canvas.savefig(file, format=kind, **own)


def _file_name(slug: str) -> str:
    """Of a slug, which names a task of any name: the same, unless that is no file's."""
    plain = re.sub(r"[^\w.-]+", "-", slug)[:SLUG_CHARACTERS]
    return plain if plain == slug else f"{plain}-{text_digest(slug)[:8]}"

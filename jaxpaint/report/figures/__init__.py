"""Every figure that a study has data for: what each shows, and how it is drawn and saved."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from jaxpaint.report.figures.benchmarks import benchmark_figures
from jaxpaint.report.figures.finetuned import finetuned_figures
from jaxpaint.report.figures.heatmaps import (
    iteration_figure,
    similarity_across_models,
    similarity_figure,
    states_figure,
)
from jaxpaint.report.figures.layers import layer_figure
from jaxpaint.report.figures.strategies import skip_across_models, strategy_figures
from jaxpaint.report.figures.style import RC, Drawn
from jaxpaint.report.finetuned import TunedTask
from jaxpaint.report.measurements import Measurements

DOTS_PER_INCH = 160
CHARACTERS_PER_INCH = 10  # of titles


def study_figures(measured: Measurements, tuned: Sequence[TunedTask] = ()) -> list[Drawn]:
    """The figures of one study, and of what was fine-tuned of it."""
    return [
        *layer_figure(measured),
        *similarity_figure(measured),
        *benchmark_figures(measured),
        *iteration_figure(measured),
        *strategy_figures(measured),
        *finetuned_figures(measured, tuned),
        *states_figure(measured),
    ]


def figures_across(all_measured: Sequence[Measurements]) -> list[Drawn]:
    """The figures that need several models."""
    return [*skip_across_models(all_measured), *similarity_across_models(all_measured)]


def save(figure: Drawn, model: str, folder: Path) -> tuple[Path, Path]:
    """Draws a figure into `folder` as PNG and PDF, titled; equal data gives equal files. Returns both paths."""
    import matplotlib
    from matplotlib.figure import Figure

    number = f"{int(figure.number):02}" if figure.number.isdigit() else ""
    stem = "-".join(part for part in ("figure", number, figure.slug) if part)
    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    with matplotlib.rc_context(RC):
        canvas = Figure(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        title = f"{model}: {figure.title}" if model else figure.title
        canvas.suptitle(textwrap.fill(title, int(figure.size[0] * CHARACTERS_PER_INCH)), fontsize=12)
        canvas.savefig(png, dpi=DOTS_PER_INCH)
        canvas.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf

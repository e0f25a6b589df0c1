"""Every plan's score against its cost, and windows of layers by their first layer and width.

The page draws both anew where scripts run; these are what is printed, and what lies beside the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import entry
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, Drawn
from jaxpaint.report.paired import PlanScores
from jaxpaint.report.windows import Kind, Window, window_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COST, WINDOWS = "plans", "windows"
"""What such figures are called in place of a number of the paper's."""
MISSING = "#d9d9d9"
MOST_NUMBERS = 10  # side by side on a map
FULL = "full"


def plan_figures(scores: PlanScores) -> Iterator[Drawn]:
    """Those that there is data for: two plans with an average, and maps of windows by kind."""
    if sum(np.isfinite(row.average.value) for row in scores.rows) > 1:
        yield Drawn(
            COST,
            "plans-score-against-cost",
            "Every plan's score against its cost",
            f"Up: the score ({scores.of_average}). Across: layer applications. Lines: the full model. Bars: 95 % "
            "intervals over documents.",
            partial(_cost, scores),
        )
    for kind, windows in maps_of(scores).items():
        yield Drawn(
            WINDOWS,
            f"windows-{kind.replace(' ', '-')}",
            f"One block of layers {kind}",
            f"Each plan {'leaves out' if kind == 'left out' else 'runs twice'} one block of layers. Colour and number: "
            f"its score ({scores.of_average}) less the full model's on the same documents.",
            partial(_windows, scores, windows),
            (6.4, 1.6 + 0.42 * len({window.width for window in windows.values()})),
        )


def maps_of(scores: PlanScores) -> Mapping[Kind, Mapping[int, Window]]:
    """Windows by the row's place among the scores, of plans that have a difference from the full model."""
    plans = scores.study.plans
    found = window_maps([Plan.parse(plans[row.column].text) for row in scores.rows], scores.study.model.num_layers)
    known = {
        kind: {place: each for place, each in windows.items() if np.isfinite(scores.rows[place].difference.value)}
        for kind, windows in found.items()
    }
    return {kind: windows for kind, windows in known.items() if windows}


def _cost(scores: PlanScores, figure: Figure) -> None:
    axes = figure.subplots()
    rows = [row for row in scores.rows if np.isfinite(row.average.value)]
    for strategy in dict.fromkeys(row.strategy for row in rows if row.strategy != FULL):
        some = [row for row in rows if row.strategy == strategy]
        x = np.array([scores.study.plans[row.column].cost for row in some], np.float64)
        y, low, high = (np.array([getattr(row.average, of) for row in some]) for of in ("value", "low", "high"))
        how = {"linestyle": "none", "elinewidth": 0.7, "alpha": 0.85, "yerr": style.bars(y, low, high)}
        style.points(axes, x, y, style.strategy_look(strategy), label=entry(strategy).words, **how)
    if scores.full is not None and np.isfinite(scores.full.average.value):
        axes.axhline(scores.full.average.value, color=BLACK, linewidth=1, label="full model")
        axes.axvline(scores.study.plans[scores.full.column].cost, color=BLACK, linewidth=1)
    axes.set_xlabel("cost: layer applications")
    axes.set_ylabel(scores.of_average)
    style.whole_numbers(axes.xaxis)
    style.legend_below(figure, axes, 4)


def _windows(scores: PlanScores, windows: Mapping[int, Window], figure: Figure) -> None:
    from matplotlib.colors import CenteredNorm

    axes = figure.subplots()
    axes.grid(False)
    widths = sorted({window.width for window in windows.values()})
    firsts = sorted({window.first for window in windows.values()})
    values = np.full((len(widths), len(firsts)), np.nan)
    for place, window in windows.items():
        where = widths.index(window.width), firsts.index(window.first)
        values[where] = scores.rows[place].difference.value
    norm = CenteredNorm(0.0, float(np.nanmax(np.abs(values))) or 0.01)
    axes.set_facecolor(MISSING)
    axes.imshow(
        np.ma.masked_invalid(values), origin="lower", cmap="RdBu", norm=norm, interpolation="none", aspect="auto"
    )
    for row, column in np.argwhere(np.isfinite(values)) if len(firsts) <= MOST_NUMBERS else ():
        value = values[row, column]
        colour = "white" if abs(value) > 0.6 * norm.halfrange else "black"
        axes.text(column, row, f"{value:+.2f}", ha="center", va="center", color=colour, size=8)
    axes.set_xticks(range(len(firsts)), [str(first) for first in firsts])
    axes.set_yticks(range(len(widths)), [str(width) for width in widths])
    axes.set_xlabel("first layer of the block")
    axes.set_ylabel("layers")

"""Figures of the analyses of hidden states: curves over states or steps with their intervals, maps of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.analysed import (
    BY_STATE,
    CLOCK,
    OF_PAIRS,
    ByState,
    ChosenPlan,
    Numbers,
    OfPairs,
    Quantity,
    about,
    chosen_plans,
    matrix,
    numbers,
)
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import Drawn, Kind, Look
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATE = "hidden state (0: embedding output)"
STEP = "step"
MISSING = "#d9d9d9"


def curve_figures(measured: Measurements) -> Iterator[Drawn]:
    """One for each analysis by state or step, of the full model and a plan of each strategy."""
    for analysis in BY_STATE:
        plans = chosen_plans(measured, analysis.name)
        found = [(plan, _quantities(measured, analysis, plan)) for plan in plans]
        found = [(plan, each) for plan, each in found if any(one is not None for one in each)]
        if found:
            yield Drawn(
                analysis.name.replace("_", "-"),
                analysis.name.replace("_", "-"),
                analysis.title,
                f"{analysis.says} {about(measured, analysis.name, found[0][0].column)}",
                partial(_curves, analysis=analysis, found=found, num_layers=measured.num_layers),
                (3.2 + 3.2 * analysis.columns, 1.3 + 3.1 * len(analysis.quantities) / analysis.columns),
            )


def _quantities(measured: Measurements, analysis: ByState, plan: ChosenPlan) -> list[Numbers | None]:
    return [numbers(measured, analysis.name, plan.column, quantity.place) for quantity in analysis.quantities]


def map_figures(measured: Measurements) -> Iterator[Drawn]:
    """One for each analysis of pairs, of the full model."""
    for analysis in OF_PAIRS:
        found = matrix(measured, analysis, measured.study.full)
        if found is not None and np.isfinite(found.value).any():
            yield Drawn(
                analysis.name.replace("_", "-"),
                analysis.name.replace("_", "-"),
                analysis.title,
                f"{analysis.says} Full model. {about(measured, analysis.name, measured.study.full)}",
                partial(_maps, analysis=analysis, found=found),
                (6.4, 5.4) if found.half is None else (8.4, 4.4),
            )


def _curves(
    figure: Figure,
    analysis: ByState,
    found: Sequence[tuple[ChosenPlan, Sequence[Numbers | None]]],
    num_layers: int,
) -> None:
    rows = -(-len(analysis.quantities) // analysis.columns)
    grid = figure.subplots(rows, analysis.columns, sharex=True, squeeze=False)
    first = 1 if analysis.over == "step" else 0
    for number, (axes, quantity) in enumerate(zip(grid.T.ravel(), analysis.quantities, strict=True)):
        for index, (plan, each) in enumerate(found):
            if (values := each[number]) is not None:
                where = first + np.arange(len(values.value))
                style.band(axes, where, values.value, values.half, _look(plan, index), plan.label)
        _finish(axes, quantity)
        if analysis.name == CLOCK:
            straight = {"color": style.GREY, "linewidth": 1, "linestyle": (0, (1, 1.5))}
            axes.plot([0, num_layers], [0, 1], label="one layer a step", **straight)
    for axes in grid[-1]:
        axes.set_xlabel(STEP if analysis.over == "step" else STATE if analysis.columns == 1 else "hidden state")
        style.whole_numbers(axes.xaxis)
    style.legend_below(figure, grid[-1, -1], columns=3)


def _look(plan: ChosenPlan, index: int) -> Look:
    return style.look(index) if plan.strategy == CUSTOM else style.strategy_look(plan.strategy)


def _finish(axes: Axes, quantity: Quantity) -> None:
    axes.set_ylabel(f"{quantity.words} (log)" if quantity.scale != "linear" else quantity.words)
    if quantity.scale == "log":
        style.log_scale(axes)
    elif quantity.scale == "symlog":
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)


def _maps(figure: Figure, analysis: OfPairs, found: Numbers) -> None:
    panels = [(found.value, analysis.label, "cividis")]
    if found.half is not None:
        panels.append((found.half, "half of the 95 % interval", "Greys"))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (values, label, colours) in zip(all_axes, panels, strict=True):
        axes.grid(False)
        axes.set_facecolor(MISSING)
        image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, origin="lower", interpolation="none")
        style.whole_numbers(axes.xaxis)
        style.whole_numbers(axes.yaxis)
        axes.set_xlabel(STATE)
        axes.set_ylabel(STATE if axes is all_axes[0] else "")
        figure.colorbar(image, ax=axes, label=label, location="bottom", shrink=0.9)


CURVES = Kind(curve_figures, {})
MAPS = Kind(map_figures, {})

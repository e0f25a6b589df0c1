"""The BERT halves of figures 4 to 9 and 11, and A.9: GLUE scores as they are, and their average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.report.curves import Curve
from jaxpaint.report.figures import style
from jaxpaint.report.figures.benchmarks import numbers
from jaxpaint.report.figures.style import BLACK, Drawn
from jaxpaint.report.glue import GlueStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE = "GLUE score (accuracy, F1, correlation)"
AVERAGE = "average GLUE score"
BARS = "Bars: 95 % intervals from standard errors over resampled examples"


def glue_figures(glue: GlueStudy) -> Iterator[Drawn]:
    """Those that have data. The figure of all strategies has the paper's number, 11, or A.9 where frozen."""
    tasks = glue.scores.tasks
    for strategy, number in numbers().items():
        curves: dict[str | None, Curve] = {task: glue.curve(strategy, task) for task in (*tasks, None)}
        if any(curves.values()):
            name = glue.study.words(strategy)
            caption = f"Each GLUE task and their average under {name}, {glue.kind}. {BARS}{_seeds(curves.values())}."
            title = f"{name[0].upper()}{name[1:]}, {glue.kind}"
            yield Drawn(number, f"glue-{strategy}", title, caption, partial(_one, glue, curves))
    all_curves = glue.curves()
    if all_curves:
        over = f"the average over {len(tasks)} GLUE tasks" if len(tasks) > 1 else f"{tasks[0]} alone"
        caption = f"Every strategy at each number of affected layers: {over}, {glue.kind}. {BARS}."
        if any(np.isfinite(glue.majority(result)) for result in glue.study.results):
            caption += " Majority: the most frequent training class as the answer to every example."
        title = f"All strategies, {glue.kind}"
        number = "A.9" if glue.frozen else "11"
        yield Drawn(number, "glue-all-strategies", title, caption, partial(_all, glue, all_curves))


def _seeds(curves) -> str:
    seeds = max((int(curve.seeds.max()) for curve in curves if curve), default=1)
    return f"; {seeds} orders averaged" if seeds > 1 else ""


def _one(glue: GlueStudy, curves: dict[str | None, Curve], figure: Figure) -> None:
    axes = figure.subplots()
    tasks = [task for task in curves if task is not None]
    for index, task in enumerate(tasks):
        if curves[task]:
            shift = style.apart(index, len(tasks), 0.16)
            style.plot_curve(axes, curves[task], style.look(index), task, shift=shift, width=1.1)
    if curves[None] and len(tasks) > 1:
        style.plot_curve(axes, curves[None], (BLACK, "o", "-"), "average", width=2.6)
    _finish(figure, axes, glue, list(curves.values()), SCORE)


def _all(glue: GlueStudy, curves: dict[str, Curve], figure: Figure) -> None:
    axes = figure.subplots()
    for index, (strategy, curve) in enumerate(curves.items()):
        shift = style.apart(index, len(curves), 0.1)
        style.plot_curve(axes, curve, style.strategy_look(strategy), glue.study.words(strategy), shift=shift)
    _finish(figure, axes, glue, list(curves.values()), AVERAGE)


def _finish(figure: Figure, axes: Axes, glue: GlueStudy, curves: Sequence[Curve], label: str) -> None:
    several = len(glue.scores.tasks) > 1
    full, majority = glue.averages()
    axes.axhline(full, color=BLACK, linewidth=1, label="full model" + (", average" if several else ""))
    if np.isfinite(majority):
        style.guessing_line(axes, majority, "majority" + (", average" if several else ""))
    style.over_affected(axes, curves, label)
    style.legend_below(figure, axes, 3)

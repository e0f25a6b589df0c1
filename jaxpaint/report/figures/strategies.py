"""Figure 11, tasks against each other, and score against cost: all strategies in one plot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.plans.strategies import CUSTOM, EVERY, beyond_paper, ranked
from jaxpaint.report.bootstrap import interval
from jaxpaint.report.curves import Curve
from jaxpaint.report.evidence import matched
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, NORMALISED, Drawn, Kind
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.questions.order import ORDERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def strategy_figures(measured: Measurements) -> Iterator[Drawn]:
    """Those of one study that have data."""
    curves = measured.curves(*ranked(), *beyond_paper())
    tasks = measured.scores.tasks
    of = f"the median over {len(tasks)} benchmarks" if len(tasks) > 1 else f"{tasks[0]} alone" if tasks else ""
    bars = "Bars: 95 % intervals, bootstrap over documents and seeds."
    if curves:
        yield Drawn(
            "11",
            "all-strategies",
            "All strategies",
            f"Every strategy at each number of affected layers: {of}. {bars}",
            lambda f: _all(f, measured, curves),
        )
    points = trade_off(measured)
    if points.keys() - {CUSTOM}:  # one's own alone are in the page's first figure
        yield Drawn(
            "tradeoff",
            "score-against-cost",
            "Score against depth and compute",
            f"Every plan: {of}, against its depth (layers on the longest chain: what its latency would be if parallel "
            "branches truly ran at once) and its cost (layer applications), both counted, not timed, and relative to "
            "the full model. Above and left is better. "
            f"{bars} Strategies that run as many layers as the full model, one after the other, are not shown.",
            lambda f: _trade_off(f, measured, points),
            (8.6, 4.8),
        )
    by_task = {s: {task: measured.curve(s, task) for task in tasks} for s in ORDERS}
    by_task = {strategy: found for strategy, found in by_task.items() if matched(found)}
    if len(tasks) > 1 and by_task:
        yield Drawn(
            "tasks",
            "tasks-under-other-orders",
            "What each task keeps when layers run out of order",
            f"Means over the numbers of affected layers (2 or more) that all tasks have. {bars}",
            lambda f: _tasks(f, measured, by_task),
            (6.4, 1.6 + 0.5 * len(tasks)),
        )


def trade_off(measured: Measurements) -> dict[str, list[Curve]]:
    """Curves by strategy: every number of iterations and repeats, plans of one's own as single points."""
    found: dict[str, list[Curve]] = {}
    for strategy in EVERY.values():
        times = measured.study.times if "times" in strategy.options else (None,)
        curves = [measured.curve(strategy.name, times=each) for each in times] if strategy.trades else []
        if any(curves):
            found[strategy.name] = [curve for curve in curves if curve]
    return found | ({CUSTOM: [measured.own_plans]} if measured.own_plans else {})


def _all(figure: Figure, measured: Measurements, curves: dict[str, Curve]) -> None:
    axes = figure.subplots()
    style.reference_lines(axes)
    for index, (strategy, curve) in enumerate(curves.items()):
        shift = style.apart(index, len(curves), 0.16)
        style.plot_curve(axes, curve, style.strategy_look(strategy), measured.name(strategy), shift=shift)
    style.fit_normalised(axes, list(curves.values()))
    style.over_affected(axes, list(curves.values()), NORMALISED)
    style.legend_below(figure, axes, 3)


def _trade_off(figure: Figure, measured: Measurements, points: dict[str, list[Curve]]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, of in ((left, "depth"), (right, "cost")):
        style.reference_lines(axes)
        axes.axvline(1, color=BLACK, linewidth=1)
        for strategy, curves in points.items():
            look, size = style.strategy_look(strategy), 10 if strategy == CUSTOM else 5
            how = {"linestyle": "none", "markersize": size, "elinewidth": 0.7, "alpha": 0.85}
            for number, curve in enumerate(curves):
                x = (curve.depth if of == "depth" else curve.cost) / measured.num_layers
                label = measured.name(strategy) if number == 0 else "_"
                length = style.bars(curve.value, curve.low, curve.high)
                style.points(axes, x, curve.value, look, yerr=length, label=label, **how)
    style.fit_normalised(left, [curve for curves in points.values() for curve in curves])
    left.set_ylabel(NORMALISED)
    left.set_xlabel("depth ÷ full model's")
    right.set_xlabel("layer applications ÷ full model's")
    style.legend_below(figure, left, 4)


def _tasks(figure: Figure, measured: Measurements, by_task: dict[str, dict[str, Curve]]) -> None:
    axes = figure.subplots()
    tasks = measured.scores.tasks
    for index, (strategy, curves) in enumerate(by_task.items()):
        means = np.stack([matched(curves)[task] for task in tasks], axis=1)
        length, look = style.bars(means[0], *interval(means[1:])), style.strategy_look(strategy)
        where, name = np.arange(len(tasks)) + style.apart(index, len(by_task), 0.2), measured.name(strategy)
        style.points(axes, means[0], where, look, xerr=length, linestyle="none", capsize=2, label=name)
    axes.axvline(0, color=style.GREY, linewidth=1, linestyle=(0, (1, 1.5)), label="chance")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.invert_yaxis()
    axes.set_xlabel(NORMALISED)
    style.legend_below(figure, axes)


ALL_STRATEGIES = Kind(strategy_figures, {"11": "several strategies"})

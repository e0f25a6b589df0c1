"""Score against latency that was measured, where `jaxpaint bench --model` kept some in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.report.bootstrap import interval
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, NORMALISED, Drawn, Kind
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.timed import Timed, timed
from jaxpaint.results.latency import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def latency_figure(measured: Measurements) -> Iterator[Drawn]:
    """Of the machine and sizes under which most scored plans were measured; the table has the others."""
    by_setting = {setting: plans for setting, plans in timed(measured).items() if len(plans) > 1}
    if not by_setting:
        return
    setting, plans = max(by_setting.items(), key=lambda item: len(item[1]))  # the first of equals
    tasks = measured.scores.tasks
    of = f"the median over {len(tasks)} benchmarks" if len(tasks) > 1 else f"{tasks[0]} alone"
    others = len(by_setting) - 1
    more = f" Another {others} machine{'s' * (others > 1)} or sizes are in the table." if others else ""
    yield Drawn(
        "latency",
        "score-against-latency",
        "Score against measured latency",
        f"Every plan that was timed: {of}, against the milliseconds to the first new token and those of each further "
        f"one. {setting.sizes}; {measured.study.model.dtype} on {setting.machine}. Bars: 95 % intervals of scores, "
        f"bootstrap over documents; quartiles of times over rounds. Above and left is better.{more}",
        lambda f: _draw(f, measured, plans, setting.machine),
        (8.6, 4.8),
    )


def _draw(figure: Figure, measured: Measurements, plans: Sequence[Timed], machine: str) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    point, draws = measured.scores.over_tasks
    low, high = interval(draws)
    strategies = dict.fromkeys(plan.strategy for plan in plans)
    for axes, of in ((left, "first"), (right, "step")):
        style.reference_lines(axes)
        for strategy in strategies:
            some = [plan for plan in plans if plan.strategy == strategy and (of == "first" or plan.latency.told)]
            if not some:
                continue
            columns = [plan.column for plan in some]
            spreads: list[Spread] = [getattr(plan.latency, of).scaled(1000) for plan in some]
            x = np.array([spread.median for spread in spreads])
            across = np.array([[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]])
            up = style.bars(point[columns], low[columns], high[columns])
            how = {"linestyle": "none", "elinewidth": 0.7, "alpha": 0.85, "xerr": across, "yerr": up}
            label = measured.name(strategy)
            if strategy == "full":
                axes.axvline(x[0], color=BLACK, linewidth=1)
                how |= {"color": BLACK, "marker": "o"}
                label = "_"
            style.points(axes, x, point[columns], style.strategy_look(strategy), label=label, **how)
        axes.set_xlim(left=0)
    columns = [plan.column for plan in plans]
    style.fit_scores(left, point[columns], low[columns], high[columns])
    left.set_ylabel(NORMALISED)
    left.set_xlabel("ms to the first new token")
    right.set_xlabel("ms for each further token")
    figure.text(0.99, 0.005, machine, ha="right", va="bottom", color=style.GREY)
    style.legend_below(figure, left, 4)


LATENCY = Kind(latency_figure, {})

"""Figures 4 to 9 and 17: one strategy each, every benchmark and their median."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from jaxpaint.plans.strategies import STRATEGIES, ranked
from jaxpaint.report.curves import Curve
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, NORMALISED, Drawn, Kind
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPEAT = STRATEGIES["block-repeat"]


def numbers() -> dict[str, str]:
    """The strategies that the paper compares, and its figure of each."""
    return {name: STRATEGIES[name].figure or name for name in ranked()}


def benchmark_figures(measured: Measurements) -> Iterator[Drawn]:
    """Those that have data."""
    left_out = [score.task for score in measured.scores.left_out]
    gone = f" Left out, see the notes: {', '.join(left_out)}." if left_out else ""
    for strategy, number in numbers().items():
        curves = _curves(measured, strategy)
        if curves:
            name = measured.name(strategy)
            caption = f"Each benchmark and their median under {name}. {_bars(curves)}"
            title = name[0].upper() + name[1:]
            yield Drawn(number, strategy, title, caption + gone, partial(_one, curves, left_out))
    repeats = {times: _curves(measured, REPEAT.name, times) for times in measured.study.times}
    repeats = {times: curves for times, curves in repeats.items() if curves}
    if repeats:
        first = next(iter(repeats.values()))
        yield Drawn(
            REPEAT.figure or REPEAT.name,
            REPEAT.name,
            "The middle block in order, several times",
            f"Each benchmark and their median with the whole middle block repeated in series. {_bars(first)}{gone}",
            partial(_side_by_side, repeats, left_out),
            (max(6.4, 4.4 * len(repeats)), 4.6),
        )


def _curves(measured: Measurements, strategy: str, times: int | None = None) -> dict[str | None, Curve]:
    """By task, the median under None; tasks that are left out of the median are not drawn either."""
    found: dict[str | None, Curve] = {
        task: measured.curve(strategy, task, times=times) for task in (*measured.scores.tasks, None)
    }
    return found if any(found.values()) else {}


def _bars(curves: dict[str | None, Curve]) -> str:
    text = "Bars: 95 % intervals (cut where they leave the plot), bootstrap over documents"
    seeds = max((int(curve.seeds.max()) for curve in curves.values() if curve), default=1)
    return f"{text} and {seeds} seeds; shaded: the median's lowest to highest seed." if seeds > 1 else f"{text}."


def _one(curves: dict[str | None, Curve], left_out: Sequence[str], figure: Figure) -> None:
    axes = figure.subplots()
    _draw(axes, curves, left_out, NORMALISED)
    style.legend_below(figure, axes)


def _side_by_side(repeats: dict[int, dict[str | None, Curve]], left_out: Sequence[str], figure: Figure) -> None:
    panels = figure.subplots(1, len(repeats), sharey=True, squeeze=False)[0]
    for axes, (times, curves) in zip(panels, repeats.items(), strict=True):
        _draw(axes, curves, left_out)
        axes.set_title({2: "double repeat", 3: "triple repeat"}.get(times, f"block {times} times"))
    style.fit_normalised(panels[0], [curve for curves in repeats.values() for curve in curves.values() if curve])
    panels[0].set_ylabel(NORMALISED)
    style.legend_below(figure, panels[0], 5)


def _draw(axes: Axes, curves: dict[str | None, Curve], left_out: Sequence[str], label: str = "") -> None:
    style.reference_lines(axes)
    tasks = [task for task in curves if task is not None]
    for index, task in enumerate(tasks):
        if curves[task]:
            shift = style.apart(index, len(tasks), 0.24)
            style.plot_curve(axes, curves[task], style.look(index), task, shift=shift, width=1.1)
    median = curves[None]
    if median and len(tasks) > 1:
        if median.seeds.max() > 1:
            axes.fill_between(median.affected, median.lowest, median.highest, color=BLACK, alpha=0.12, linewidth=0)
        style.plot_curve(axes, median, (BLACK, "o", "-"), "median", width=2.6)
    for task in left_out:
        axes.plot([], [], " ", label=task + style.LEFT_OUT)
    style.fit_normalised(axes, [curve for curve in curves.values() if curve])
    style.over_affected(axes, list(curves.values()), label)


NEEDS = {number: f"--strategies {name}" for name, number in (*numbers().items(), (REPEAT.name, "17"))}
BENCHMARKS = Kind(benchmark_figures, NEEDS)

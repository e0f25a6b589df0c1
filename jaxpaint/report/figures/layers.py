"""Figure 2: LAMBADA without one layer, and with two neighbours switched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.plans.strategies import taking
from jaxpaint.report.data import Measured, TaskResults
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, Drawn, Kind
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WAYS = {"skip-one": "without one layer", "switch": "with two layers switched"}
Z = 1.96  # standard errors from a mean to the end of its 95 % interval


def layer_figure(measured: Measurements) -> Iterator[Drawn]:
    """Of LAMBADA where it was run, else of the first task that was."""
    found = [result for result in measured.study.results if _has_layers(measured, result)]
    found.sort(key=lambda result: not result.task.benchmark.startswith("lambada"))
    if not found:
        return
    result = found[0]
    perplexity = result.metrics.get("perplexity")
    panels = [(result.task.metric, result.main)]
    if perplexity is not None and result.task.metric != "perplexity":
        panels.append(("perplexity", perplexity))
    ways = [_WAYS[strategy] for strategy in taking("layer") if _columns(measured, strategy) and strategy in _WAYS]
    yield Drawn(
        "2",
        "one-layer",
        f"{result.task.name} {' or '.join(ways) or 'by layer'}",
        "By layer; the line is the full model. Bars: 95 % intervals (1.96 standard errors over documents).",
        lambda f: _draw(f, measured, panels, result),
        (6.4, 3.1 * len(panels) + 1),
    )


def _columns(measured: Measurements, strategy: str) -> list[tuple[int, int]]:
    variants = measured.study.variants
    return sorted((v.layer, v.column) for v in variants if v.strategy == strategy and v.layer is not None)


def _has_layers(measured: Measurements, result: TaskResults) -> bool:
    columns = [column for strategy in taking("layer") for _, column in _columns(measured, strategy)]
    return bool(columns) and not np.isnan(result.main.value[columns]).all()


def _draw(figure: Figure, measured: Measurements, panels: list[tuple[str, Measured]], result: TaskResults) -> None:
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, values) in zip(all_axes, panels, strict=True):
        _panel(axes, measured, values)
        axes.set_ylabel("accuracy" if metric == "acc" else metric)
        if metric == "perplexity":
            style.log_scale(axes)
            axes.set_ylabel("perplexity per word (log)")
        elif result.task.chance:
            style.guessing_line(axes, result.task.chance)
    is_switched = bool(_columns(measured, "switch"))
    all_axes[-1].set_xlabel("layer left out, or the first of the two switched" if is_switched else "layer left out")
    style.whole_numbers(all_axes[-1].xaxis)
    style.legend_below(figure, all_axes[0])


def _panel(axes: Axes, measured: Measurements, values: Measured) -> None:
    if measured.study.full is not None:
        axes.axhline(values.value[measured.study.full], color=BLACK, linewidth=1, label="full model")
    missing: set[int] = set()
    strategies = [strategy for strategy in taking("layer") if _columns(measured, strategy)]
    for index, strategy in enumerate(strategies):
        found = _columns(measured, strategy)
        layers, columns = (np.array(part) for part in zip(*found, strict=True))
        missing |= set(layers[np.isnan(values.value[columns])].tolist())
        where, name = layers + style.apart(index, len(strategies), 0.24), measured.name(strategy)
        length, look = Z * np.nan_to_num(values.stderr[columns]), style.strategy_look(strategy)
        style.points(axes, where, values.value[columns], look, yerr=length, elinewidth=0.8, capsize=1.5, label=name)
    style.mark_missing(axes, np.array(sorted(missing)))


LAYERS = Kind(layer_figure, {"2": "--strategies skip-one,switch on lambada_openai"})

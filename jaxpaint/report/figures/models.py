"""Figure 12, and every strategy, over the share of a model's layers: several models in one plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from jaxpaint.plans.strategies import entry, ranked
from jaxpaint.report.curves import Curve
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import NORMALISED, Drawn, Kind
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OfModels: TypeAlias = Sequence[tuple[Measurements, Curve]]
COLUMNS = 2  # of panels


def across_models(all_measured: Sequence[Measurements]) -> Iterator[Drawn]:
    """Of the strategies that two models or more ran."""
    found = {strategy: _of_models(all_measured, strategy) for strategy in ranked()}
    found = {strategy: curves for strategy, curves in found.items() if curves}
    if "skip" in found:
        yield Drawn(
            "12",
            "skip-across-models",
            "Skip, several models",
            "The median over benchmarks against the share of layers left out. Bars: 95 % intervals, bootstrap over "
            "documents.",
            lambda f: _skip(f, found["skip"]),
        )
    if found.keys() - {"skip"}:
        rows = -(-len(found) // COLUMNS)
        yield Drawn(
            "models",
            "strategies-across-models",
            "Every strategy, several models",
            "The median over each model's benchmarks against the share of its layers that a plan affects. Bars: 95 % "
            "intervals, bootstrap over documents and seeds.",
            lambda f: _strategies(f, found),
            (7.6, 1.0 + 2.3 * rows),
        )


def _of_models(all_measured: Sequence[Measurements], strategy: str) -> OfModels:
    """A strategy's curves; none where fewer than two models have one."""
    curves = [(measured, measured.curve(strategy)) for measured in all_measured]
    curves = [(measured, curve) for measured, curve in curves if curve]
    return curves if len({measured.study.model.id for measured, _ in curves}) > 1 else []


def _skip(figure: Figure, curves: OfModels) -> None:
    axes = figure.subplots()
    _lines(axes, curves, _labels([curves]))
    axes.set_xlabel("layers skipped, % of the model's layers")
    axes.set_ylabel(NORMALISED)
    style.legend_below(figure, axes, 2)


def _strategies(figure: Figure, found: Mapping[str, OfModels]) -> None:
    rows = -(-len(found) // COLUMNS)
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    labels = _labels(list(found.values()))
    for axes, (strategy, curves) in zip(panels.flat, found.items(), strict=False):
        _lines(axes, curves, labels)
        axes.set_title(entry(strategy).words)
    for axes in panels.flat[len(found) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel(NORMALISED)
    for axes in panels.flat[max(0, len(found) - COLUMNS) : len(found)]:
        axes.set_xlabel("layers affected, %")
        axes.tick_params(labelbottom=True)
    widest = max(range(len(found)), key=lambda place: len(list(found.values())[place]))
    style.legend_below(figure, panels.flat[widest], 2)


def _labels(found: Sequence[OfModels]) -> dict[int, tuple[int, str]]:
    """By the study's id(): the place among all models, which gives the look, and the name."""
    studies = {id(measured.study): measured for curves in found for measured, _ in curves}
    several = len({measured.study.bos for measured in studies.values()}) > 1
    named = {}
    for place, (key, measured) in enumerate(studies.items()):
        bos = f", BOS {measured.study.bos}" if several else ""
        named[key] = (place, f"{measured.study.model.name} ({measured.num_layers} layers{bos})")
    return named


def _lines(axes: Axes, curves: OfModels, labels: Mapping[int, tuple[int, str]]) -> None:
    style.reference_lines(axes)
    for measured, curve in curves:
        place, label = labels[id(measured.study)]
        style.plot_curve(axes, curve, style.look(place), label, x=100 * curve.affected / measured.num_layers)
    style.fit_normalised(axes, [curve for _, curve in curves])


ACROSS = Kind(across_models, {"12": "skip on a second model, in the same store"})

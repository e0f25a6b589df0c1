"""Figures 3, 10, 14 and 15: heat maps, and the variance of hidden states; and of repeated blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.plans.strategies import entry
from jaxpaint.report.analysed import PAPER_START, Numbers, about, numbers
from jaxpaint.report.evidence import Z
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import NORMALISED, VERMILLION, Drawn, Kind
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.questions.variants import iteration_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

STATE = "hidden state (0: embedding output)"
MISSING = "#d9d9d9"


def iteration_figure(measured: Measurements) -> Iterator[Drawn]:
    """Figure 10, from two numbers of iterations on."""
    affected, values = iteration_map(measured)
    if len(measured.study.iterations) < 2 or not len(affected) or np.isnan(values[0]).all():
        return
    yield Drawn(
        "10",
        "iterations",
        "Iterations of looped parallel",
        "Normalised score (median over benchmarks) by the number of parallel layers and of iterations. Framed: the "
        f"best number of iterations for each number of layers.{_count_missing(values[0])}",
        lambda f: _iterations(f, affected, np.array(measured.study.iterations), values[0]),
        (6.4, 5.6),
    )


def block_figure(measured: Measurements) -> Iterator[Drawn]:
    """Every block of layers repeated once, as RYS draws it: its first layer against its last."""
    values = block_map(measured)
    if np.isfinite(values).sum() < 2:
        return
    yield Drawn(
        "blocks",
        "repeated-blocks",
        "One block of layers repeated",
        "Normalised score (median over benchmarks) by the block's first and last layer; 1 is the full model. Framed: "
        f"the best of {np.isfinite(values).sum()} blocks, which is the best by luck, too.",
        lambda f: _blocks(f, values),
        (6.4, 5.6),
    )


def block_map(measured: Measurements) -> np.ndarray:
    """The median score of the model with layers i to j repeated at [j, i], float64 [T, T]; NaN where there is none."""
    point, _ = measured.scores.over_tasks
    values = np.full((measured.num_layers, measured.num_layers), np.nan)
    for variant in measured.study.variants:
        if block := re.fullmatch(r"repeat-block first=(\d+) last=(\d+)", variant.label):
            first, last = map(int, block.groups())
            values[last, first] = point[variant.column]
    return values


def similarity_figure(measured: Measurements) -> Iterator[Drawn]:
    """Figure 3."""
    similarity = measured.analysis("similarity", measured.study.full)
    if similarity is None:
        return
    yield Drawn(
        "3",
        "similarity",
        "Similarity of hidden states",
        f"Mean cosine similarity between the {len(similarity)} hidden states of {measured.study.model.name}: after "
        f"the embedding, then after each layer, before the final norm. {_half_widths(measured, measured.study.full)}",
        lambda f: _similarities(f, [("", similarity)]),
        (6.4, 5.4),
    )


def similarity_across_models(all_measured: Sequence[Measurements]) -> Iterator[Drawn]:
    """Figure 14, for two models or more."""
    found = {m.study.model.name: m.analysis("similarity", m.study.full) for m in all_measured}
    panels = [(name, matrix) for name, matrix in found.items() if matrix is not None]
    if len(panels) < 2:
        return
    rows = (len(panels) + 1) // 2
    yield Drawn(
        "14",
        "similarity-across-models",
        "Similarity of hidden states, several models",
        "Mean cosine similarity between the hidden states of each full model; 0 is the embedding's output.",
        lambda f: _similarities(f, panels),
        (7.6, 0.6 + 3.5 * rows),
    )


def states_figure(measured: Measurements) -> Iterator[Drawn]:
    """Figure 15: skip and middle repeat at the start nearest to the paper's of 13 in 32 layers."""
    starts: dict[int, dict[str, int]] = {}
    for variant in measured.study.variants:
        if variant.strategy in ("skip", "middle-repeat") and variant.start is not None:
            kinds = ("similarity", "variance")
            if all(measured.analysis(kind, variant.column) is not None for kind in kinds):
                starts.setdefault(variant.start, {})[variant.strategy] = variant.column
    if not starts:
        return
    start = min(starts, key=lambda s: (-len(starts[s]), abs(s - PAPER_START * measured.num_layers)))
    columns = dict(sorted(starts[start].items(), reverse=True))
    if measured.study.full is not None:
        columns = {"full": measured.study.full, **columns}
    maps = [(entry(s).words, m) for s, c in columns.items() if (m := measured.analysis("similarity", c)) is not None]
    lines = {s: v for s, c in columns.items() if (v := numbers(measured, "variance", c)) is not None}
    yield Drawn(
        "15",
        "states-under-skip-and-repeat",
        f"Hidden states under skip and middle repeat, start layer {start}",
        "Mean cosine similarity between hidden states, and their variance, by executed layer. "
        f"{about(measured, 'variance', next(iter(columns.values())))}",
        lambda f: _states(f, maps, lines),
        (7.6, 7.2),
    )


def _iterations(figure: Figure, affected: np.ndarray, iterations: np.ndarray, values: np.ndarray) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(
        np.ma.masked_invalid(values), origin="lower", aspect="auto", cmap="cividis", interpolation="none"
    )
    axes.set_facecolor(MISSING)
    for column in np.flatnonzero(~np.isnan(values).all(axis=0)):
        corner = (column - 0.5, np.nanargmax(values[:, column]) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=VERMILLION, linewidth=2.2))
    _ticks(axes, affected, iterations)
    axes.set_xlabel("number of parallel layers")
    axes.set_ylabel("iterations")
    figure.colorbar(image, ax=axes, label=NORMALISED)
    handles: list = [Line2D([], [], marker="s", markersize=9, mfc="none", mec=VERMILLION, mew=2, ls="", label="best")]
    if np.isnan(values).any():
        handles.append(Patch(color=MISSING, label=f"missing ({np.isnan(values).sum()})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _blocks(figure: Figure, values: np.ndarray) -> None:
    from matplotlib.colors import CenteredNorm
    from matplotlib.patches import Rectangle

    axes = figure.subplots()
    axes.grid(False)
    norm = CenteredNorm(1.0, float(np.nanmax(np.abs(values - 1))) or 0.01)
    image = axes.imshow(np.ma.masked_invalid(values), origin="lower", cmap="RdBu", norm=norm, interpolation="none")
    last, first = np.unravel_index(np.nanargmax(values), values.shape)
    axes.add_patch(Rectangle((first - 0.5, last - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.8))
    style.whole_numbers(axes.xaxis)
    style.whole_numbers(axes.yaxis)
    axes.set_xlabel("first layer i of the block")
    axes.set_ylabel("last layer j of the block")
    figure.colorbar(image, ax=axes, label=NORMALISED)


def _ticks(axes: Axes, affected: np.ndarray, iterations: np.ndarray) -> None:
    for axis, values in ((axes.xaxis, affected), (axes.yaxis, iterations)):
        step = max(1, -(-len(values) // 15))
        axis.set_ticks(range(0, len(values), step), [str(value) for value in values[::step]])


def _similarities(figure: Figure, panels: Sequence[tuple[str, np.ndarray]]) -> None:
    columns = 1 if len(panels) == 1 else 2
    all_axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    lowest = min(float(np.nanmin(matrix)) for _, matrix in panels)
    for place, (axes, (name, matrix)) in enumerate(zip(all_axes, panels, strict=False)):
        image = _similarity(axes, matrix, lowest)
        axes.set_title(name)
        if columns > 1:
            _label_beside(axes, first=place % columns == 0)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=list(all_axes), label="cosine similarity", shrink=0.8)


def _similarity(axes: Axes, matrix: np.ndarray, lowest: float) -> AxesImage:
    axes.grid(False)
    axes.set_facecolor(MISSING)
    image = axes.imshow(
        np.ma.masked_invalid(matrix), vmin=min(0, lowest), vmax=1, cmap="cividis", origin="lower", interpolation="none"
    )
    style.whole_numbers(axes.xaxis)
    style.whole_numbers(axes.yaxis)
    axes.set_xlabel(STATE)
    axes.set_ylabel(STATE)
    return image


def _label_beside(axes: Axes, *, first: bool) -> None:
    """Of maps in a row, which have no room for more."""
    axes.set_xlabel("hidden state")
    axes.set_ylabel("hidden state" if first else "")


def _states(figure: Figure, maps: Sequence[tuple[str, np.ndarray]], lines: dict[str, Numbers]) -> None:
    grid = figure.add_gridspec(2, len(maps))
    lowest = min(float(np.nanmin(matrix)) for _, matrix in maps)
    top = [figure.add_subplot(grid[0, column]) for column in range(len(maps))]
    for axes, (name, matrix) in zip(top, maps, strict=True):
        image = _similarity(axes, matrix, lowest)
        axes.set_title(name)
        _label_beside(axes, first=axes is top[0])
    figure.colorbar(image, ax=top, label="cosine similarity", location="bottom", shrink=0.5)
    axes = figure.add_subplot(grid[1, :])
    for strategy, variance in lines.items():
        look, where = style.strategy_look(strategy), np.arange(len(variance.value))
        style.band(axes, where, variance.value, variance.half, look, entry(strategy).words)
    style.log_scale(axes)
    axes.set_xlabel(STATE)
    axes.set_ylabel("variance (log)")
    style.whole_numbers(axes.xaxis)
    style.legend_below(figure, axes)


def _half_widths(measured: Measurements, column: int | None) -> str:
    """What the similarity was measured on, and the largest interval, in words."""
    stderr, said = measured.stderr("similarity", column), about(measured, "similarity", column)
    if stderr is None or not np.isfinite(stderr).any():
        return said
    return f"{said} The widest is ± {Z * float(np.nanmax(stderr)):.2g}."


def _count_missing(values: np.ndarray) -> str:
    count = int(np.isnan(values).sum())
    return f" Grey: missing ({count} of {values.size})." if count else ""


ITERATIONS = Kind(iteration_figure, {"10": "--strategies looped-parallel --loops 1-28"})
SIMILARITY = Kind(similarity_figure, {"3": "--analyses similarity"})
BLOCKS = Kind(block_figure, {})
STATES = Kind(states_figure, {"15": "--strategies skip,middle-repeat --analyses similarity,variance"})
SIMILARITIES = Kind(similarity_across_models, {"14": "the similarity analysis of a second model, in the same store"})

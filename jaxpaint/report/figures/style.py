"""How figures look: colours that colour-blind readers tell apart, never colour alone.

They are Okabe and Ito's, the light ones darker: each has a contrast of 3 or more to white, as WCAG 2.2 asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.plans.strategies import entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from jaxpaint.report.curves import Curve

# By the names that strategies have for them.
COLOURS = {
    "black": "#000000", "orange": "#C07F00", "sky": "#3A93C9", "green": "#009E73", "yellow": "#8F8300",
    "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7", "grey": "#6b6b6b",
}  # fmt: skip
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, GREY = COLOURS.values()
GRID = "#e2e2e2"

Look = tuple[str, str, str]
"""Colour, marker and line style."""
SERIES_LOOKS: tuple[Look, ...] = (
    (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (VERMILLION, "D", ":"), (PURPLE, "v", "-"),
    (SKY, "P", "--"), (YELLOW, "X", "-."),
)  # fmt: skip
RC: Any = {
    "font.size": 10,  # the one size of every letter
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "legend.fontsize": "medium",
    "legend.handlelength": 1.7,
    "legend.handletextpad": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.markersize": 5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # texts stay texts
    "text.parse_math": False,  # a name may hold a dollar sign
}
NORMALISED = "normalised score\n(full model 1, chance 0)"
LEFT_OUT = ": left out"
ROOM = 0.6  # of the way between two whole numbers, for series that stand apart
LOW_LIMIT, HIGH_LIMIT = -0.45, 1.35
"""What a normalised axis shows at most; wide intervals are cut there."""


@dataclass(frozen=True)
class Kind:
    """One kind of figure: `draw` makes those that there is data for, of one study's `Measurements` or of several.

    `needs` says, for each of the paper's figures that it draws, what a study must have run.
    """

    draw: Callable[..., Iterable[Drawn]]
    needs: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure of the report. `number` is the paper's, or a word of our own; `caption` says what is to be seen.

    `draw` fills a new matplotlib figure.
    """

    number: str
    slug: str
    title: str
    caption: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (6.4, 4.6)


def look(index: int) -> Look:
    """Of one of several tasks or models."""
    return SERIES_LOOKS[index % len(SERIES_LOOKS)]


def strategy_look(strategy: str) -> Look:
    """Of a strategy, the same in every figure."""
    colour, marker, line = entry(strategy).look
    return COLOURS[colour], marker, line


def plot_curve(
    axes: Axes,
    curve: Curve,
    style: Look,
    label: str,
    *,
    shift: float = 0.0,
    x: np.ndarray | None = None,
    width: float = 1.5,
) -> None:
    """A curve with its intervals. `shift` keeps the bars of several curves apart."""
    where = (curve.affected if x is None else x) + shift
    length = bars(curve.value, curve.low, curve.high)
    lines = {"linewidth": width, "elinewidth": 0.8, "capsize": 1.5, "zorder": 2 + width}
    points(axes, where, curve.value, style, yerr=length, label=label, **lines)


def points(axes: Axes, x: np.ndarray, y: np.ndarray, style: Look, **how: Any) -> None:
    """matplotlib's `errorbar` in a look, but for what `how` says."""
    axes.errorbar(x, y, **dict(zip(("color", "marker", "linestyle"), style, strict=True)) | how)


def band(axes: Axes, x: np.ndarray, y: np.ndarray, half: np.ndarray | None, style: Look, label: str) -> None:
    """A line in a look, and where there are intervals, what lies within `half` of it."""
    colour, marker, line = style
    axes.plot(x, y, color=colour, marker=marker, linestyle=line, markersize=4, label=label)
    if half is not None:
        axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)


def bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The lengths of error bars from a value to the ends of its interval."""
    return np.maximum(0, [value - low, high - value])


def apart(index: int, count: int, by: float) -> float:
    """Where one of several series stands beside the number that all are of, so that their bars stay apart.

    However many there are, they stay nearer to it than to its neighbours.
    """
    return min(by, ROOM / max(1, count)) * (index - (count - 1) / 2)


def reference_lines(axes: Axes) -> None:
    """The full model and chance, of normalised scores."""
    axes.axhline(1, color=BLACK, linewidth=1, label="full model")
    guessing_line(axes, 0)


def guessing_line(axes: Axes, value: float, label: str = "chance") -> None:
    """Where guessing would lie."""
    axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (1, 1.5)), label=label)


def over_affected(axes: Axes, curves: Sequence[Curve], label: str = "") -> None:
    """Finishes axes of curves over the number of affected layers: what is missing, the ticks, and what they show."""
    mark_missing(axes, np.unique(np.concatenate([curve.missing for curve in curves])))
    axes.set_xlabel("number of affected layers")
    axes.set_ylabel(label)
    found = sorted({int(value) for curve in curves for value in (*curve.affected, *curve.missing)})
    axes.set_xticks(found[:: -(-len(found) // 15) or 1])  # as many as have room
    if len(found) == 1:  # whose series would else stand at the two edges
        axes.set_xlim(found[0] - 1, found[0] + 1)


def fit_normalised(axes: Axes, curves: Sequence[Curve]) -> None:
    """Limits around the points, with what fits of their intervals."""
    fit_scores(axes, *(np.concatenate([getattr(c, of) for c in curves] or [[]]) for of in ("value", "low", "high")))


def fit_scores(axes: Axes, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """As `fit_normalised`, of scores and the ends of their intervals."""
    least, most = float(np.min(low, initial=0)), float(np.max(high, initial=1))
    axes.set_ylim(max(LOW_LIMIT, least - 0.05), min(HIGH_LIMIT, most + 0.05))
    if len(value) and (min(value) < LOW_LIMIT or max(value) > HIGH_LIMIT):
        axes.set_ylim(min(LOW_LIMIT, min(value) - 0.05), max(HIGH_LIMIT, max(value) + 0.05))


def mark_missing(axes: Axes, missing: np.ndarray) -> None:
    """Crosses at the foot of the axes where something was asked for and has no score."""
    if len(missing):
        foot, at = np.full(len(missing), 0.02), axes.get_xaxis_transform()
        label = f"missing ({len(missing)})"
        axes.plot(missing, foot, "x", color=GREY, markersize=7, transform=at, clip_on=False, label=label)


def whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def log_scale(axes: Axes) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.5)))


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend under the plots, where it covers nothing; each label once, in as many columns as have room."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1].startswith("missing (") or entry[1].endswith(LEFT_OUT))
    handles, labels = zip(*entries, strict=True)
    for count in range(columns, 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=count, columnspacing=1.0)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()

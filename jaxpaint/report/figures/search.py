"""The front of a search for plans: score against cost, depth and measured latency, as searched and as held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, BLUE, GREY, SERIES_LOOKS, VERMILLION, Drawn, Kind
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.search import milliseconds, work
from jaxpaint.results.search import FRONT, REFERENCE, Found, SearchResult, Z, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NATS = "log-likelihood of the right answer,\nless the full model's (nats)"
CALLS = "latency: ms a call"
SHIFT = 0.12  # of the hollow marks to the left of the filled ones, in layers


def search_figure(measured: Measurements) -> Iterator[Drawn]:
    """One of each search in the store."""
    times = milliseconds(measured.study)
    for number, result in enumerate(measured.study.searches, 1):
        words = " ".join(f"{line[0].upper()}{line[1:]}." for line in verdict(result))
        yield Drawn(
            "search",
            "search-front" if number == 1 else f"search-front-{number}",
            f"Search for plans within {result.setting.budget}",
            f"Filled: the front on {result.setting.held_out} held-out documents, with 95 % intervals; hollow: the same "
            f"plans on the {result.setting.documents} that the search saw; dots: every plan that was scored on all of "
            f"these. {words} {work(result)}.",
            lambda f, result=result: _draw(f, result, times),  # type: ignore[misc]
            (8.6 if _panels(result, times) > 1 else 6.4, 4.8),
        )


def _panels(result: SearchResult, times: Mapping[str, float]) -> int:
    return 1 + _has_depths(result) + (_has_times(result, times) or bool(_calls(result)))


def _has_depths(result: SearchResult) -> bool:
    return any(cost != depth for cost, depth, _ in result.looked)


def _calls(result: SearchResult) -> Mapping[str, float]:
    """Milliseconds of a call, of a search within a latency."""
    return {each.plan: 1000 * each.latency for each in result.found if each.latency is not None}


def _has_times(result: SearchResult, times: Mapping[str, float]) -> bool:
    return sum(each.plan in times for each in result.found) > 1


def _draw(figure: Figure, result: SearchResult, times: Mapping[str, float]) -> None:
    all_axes = figure.subplots(1, _panels(result, times), sharey=True, squeeze=False)[0]
    x: list[tuple[str, Mapping[str, float]]] = [("cost: layer applications", {e.plan: e.cost for e in result.found})]
    if _has_depths(result):
        x.append(("depth: layers on the longest chain", {e.plan: e.depth for e in result.found}))
    if calls := _calls(result):
        x.append((CALLS, calls))
    elif _has_times(result, times):
        x.append(("ms to the first new token", times))
    lowest = min(min(each.search.value, each.held_out.low) for each in result.found if np.isfinite(each.held_out.low))
    highest = max(max(each.search.value, each.held_out.high) for each in result.found)
    for panel, (axes, (label, values)) in enumerate(zip(all_axes, x, strict=True)):
        if "ms" not in label:
            cloud = np.array([(row[panel], row[2]) for row in result.looked if row[2] >= lowest])
            axes.scatter(cloud[:, 0], cloud[:, 1], s=6, color=GREY, alpha=0.35, linewidths=0, label="looked at")
            if label.startswith(result.setting.budget.partition("=")[0]):
                axes.axvline(result.limit, color=GREY, linewidth=1, linestyle="--", label="budget")
            style.whole_numbers(axes.xaxis)
        elif label == CALLS:
            axes.axvline(1000 * result.limit, color=GREY, linewidth=1, linestyle="--")
        _plans(axes, result, values, 0.0 if "ms" in label else SHIFT)
        axes.set_xlabel(label)
    room = 0.06 * (highest - lowest) or 0.1
    all_axes[0].set_ylim(lowest - room, highest + room)
    all_axes[0].set_ylabel(NATS)
    style.legend_below(figure, all_axes[0], 4)


def _plans(axes: Axes, result: SearchResult, x: Mapping[str, float], shift: float) -> None:
    axes.axhline(0, color=BLACK, linewidth=1, label="full model")
    front = [each for each in result.found if each.role == FRONT and each.plan in x]
    if front:
        front.sort(key=lambda each: (x[each.plan], each.search.value))
        where = np.array([x[each.plan] for each in front])
        searched = [each.search.value for each in front]
        axes.plot(where - shift, searched, color=BLUE, marker="o", mfc="white", ls="none", label="front, searched")
        # Depth and cost have one front together: along one of them some of its plans are beaten.
        leading = np.flatnonzero(np.array(searched) >= np.maximum.accumulate(searched))
        axes.plot((where - shift)[leading], np.array(searched)[leading], color=BLUE, ls=":", lw=1, zorder=1)
        _bars(axes, front, where + shift, (BLUE, "o", "none"), "front, held out")
    looks = [look for look in SERIES_LOOKS if look[0] not in (BLUE, VERMILLION)]
    references = [each for each in result.found if each.role == REFERENCE and each.plan in x]
    for look, each in zip(looks * 3, references, strict=False):
        _bars(axes, [each], np.array([x[each.plan] - shift]), (look[0], look[1], "none"), each.name)
    best = result.best
    if best.plan in x:
        at = x[best.plan] + shift
        axes.plot([at], [best.held_out.value], color=VERMILLION, marker="*", ms=14, ls="none", mec=BLACK, mew=0.5,
                  zorder=5, label="winner, held out")  # fmt: skip


def _bars(axes: Axes, plans: list[Found], x: np.ndarray, look: style.Look, label: str) -> None:
    halves = [Z * each.held_out.stderr for each in plans]
    values = np.array([each.held_out.value for each in plans])
    style.points(axes, x, values, look, yerr=halves, label=label, elinewidth=1, capsize=2)


SEARCH = Kind(search_figure, {})

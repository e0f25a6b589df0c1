"""Score against cost, drawn of a study's table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxpaint.plans.text import clip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 8  # plans that all have room for their names
_BLUE, _GREY, _PALE = "#0b5fa5", "#5f6b76", "#b8c4d0"


def scatter(table: pd.DataFrame, model: str) -> Figure:
    """A panel for each task of `Study.frame`'s table."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    tasks = list(dict.fromkeys(table["task"]))
    rows, columns = -(-len(tasks) // 3), min(len(tasks), 3)
    figure, panels = plt.subplots(
        rows, columns, squeeze=False, figsize=(5.2 * columns, 3.8 * rows), layout="constrained"
    )
    plt.close(figure)  # a notebook shows what it is given, and once
    for panel in panels.flat[len(tasks) :]:
        panel.remove()
    for task, panel in zip(tasks, figure.axes, strict=True):
        own = table[table["task"] == task]
        errors = own["stderr"].fillna(0)
        panel.errorbar(own["cost"], own["value"], yerr=errors, fmt="o", color=_BLUE, ecolor=_PALE, elinewidth=1, ms=5)
        full = own[own["difference"].eq(0) & own["difference_stderr"].eq(0)]
        if len(full):
            panel.axhline(full["value"].iloc[0], color=_GREY, linestyle="--", linewidth=1, zorder=0)
        _name(panel, _worth_naming(own))
        panel.set(title=task, xlabel="cost, in layer applications", ylabel=own["metric"].iloc[0])
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(0.12)
    figure.suptitle(f"{model}: score against cost", fontsize=11)
    return figure


def _worth_naming(own: pd.DataFrame) -> pd.DataFrame:
    """All, where there are few; or the best and the worst of each cost."""
    own = own.dropna(subset=["value"])
    if len(own) <= FEW:
        return own
    by_cost = own.groupby("cost")["value"]
    return own.loc[sorted({*by_cost.idxmax(), *by_cost.idxmin()})]


def _name(panel: Axes, own: pd.DataFrame) -> None:
    """Beside the points, to that side where there is room, above or below where another name stands."""
    middle = (own["cost"].min() + own["cost"].max()) / 2
    taken: list[tuple[float, float]] = []
    height = 0.055 * max(own["value"].max() - own["value"].min(), 1e-9)
    for label, cost, value in own[["label", "cost", "value"]].sort_values("value").itertuples(index=False):
        near = sum(abs(cost - x) < 1e-9 + 0.3 * abs(middle) and abs(value - y) < height for x, y in taken)
        taken.append((cost, value))
        right = cost <= middle
        panel.annotate(
            clip(label, 28),
            (cost, value),
            xytext=(6 if right else -6, 3 + 9 * near),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=7,
            color="#222222",
        )

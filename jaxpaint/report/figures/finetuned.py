"""Figure 13: a strategy's score as it is, and after fine-tuning with each plan in place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.report.curves import Curve
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import BLACK, BLUE, ORANGE, Drawn, Kind, Look
from jaxpaint.report.finetuned import TunedTask
from jaxpaint.report.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = {"skip": "13"}  # of the paper, which fine-tuned after skipping alone
FROZEN: Look = (ORANGE, "s", "--")
TUNED: Look = (BLUE, "o", "-")


def finetuned_figures(measured: Measurements) -> Iterator[Drawn]:
    """One for each task and strategy that was fine-tuned."""
    for each in measured.tuned:
        for strategy in each.strategies():
            name = measured.name(strategy)
            caption = (
                f"{each.task.benchmark} under {name}, as it is and after fine-tuning the plan's layers on the task's "
                f"training documents ({each.how()}). Scores are not normalised. Bars: 95 % intervals from standard "
                "errors over documents."
            )
            title = f"{name[0].upper()}{name[1:]}, then fine-tuning on {each.title}"
            slug = f"fine-tuned-{strategy}-{each.title.replace(' #', '-')}"
            number = NUMBERS.get(strategy, "fine-tuned")
            yield Drawn(number, slug, title, caption, partial(_draw, each, strategy, name))


def _draw(each: TunedTask, strategy: str, name: str, figure: Figure) -> None:
    axes = figure.subplots()
    curves: list[Curve] = []
    kinds = ((each.frozen, FROZEN, name, -0.06), (each.tuned, TUNED, f"{name}, fine-tuned", 0.06))
    for results, how, label, shift in kinds:
        if results is None:
            continue
        curve = each.curve(strategy, results)
        if curve:
            style.plot_curve(axes, curve, how, label, shift=shift)
        curves.append(curve)
    for results, label, line in ((each.frozen, "full model", "-"), (each.tuned, "full model, fine-tuned", "-.")):
        if np.isfinite(full := each.study.full_score(results)):
            axes.axhline(full, color=BLACK, linewidth=1, linestyle=line, label=label)
    if each.task.chance is not None:
        style.guessing_line(axes, each.task.chance)
    style.over_affected(axes, curves, f"{each.task.benchmark}, {each.task.metric}")
    style.legend_below(figure, axes, 3)


FINETUNED = Kind(finetuned_figures, {"13": "jaxpaint finetune --strategies skip"})

"""Evidence on questions 4 to 6: the middle layers in another order, side by side, and task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from jaxpaint.report.curves import Curve
from jaxpaint.report.evidence import Evidence, above, difference, matched, over, shared
from jaxpaint.report.measurements import Measurements

HALF = 0.5
# Of painter-16's tasks those that stand for these benchmarks; but recalling facts is no reasoning, as ARC is.
REASONING = ("gsm8k", "arc_", "painter_arithmetic")
SEMANTIC = ("lambada", "hellaswag", "winogrande", "painter_places", "painter_work", "painter_sales")
ARITHMETIC = ("gsm8k", "painter_arithmetic")
ORDERS = ("random", "reverse", "parallel")


def order(measured: Measurements) -> list[Evidence]:
    """Question 4: random and reverse order (figures 6 and 7)."""
    curves = measured.curves("random", "reverse")
    means = matched(curves)
    found = []
    if "random" in means:
        found.append(difference(f"loss by random order, {_counts(measured, curves)}", 1 - means["random"]))
    if len(means) == 2:
        found.append(
            difference(f"advantage of random order over reverse, {over(curves)}", means["random"] - means["reverse"])
        )
    for strategy in ("random", "reverse"):
        found += _against_skip(measured, strategy, decides=False)
    return found if len(means) == 2 else [replace(item, verdict=None) for item in found]


def in_parallel(measured: Measurements) -> list[Evidence]:
    """Question 5: all middle layers on one input (figure 8)."""
    found = _against_skip(measured, "parallel", decides=True)
    parallel = measured.curve("parallel")
    quarter = [int(count) for count in parallel.affected if 1 < count <= measured.num_layers / 4]
    if quarter:
        what = f"score kept with {quarter[-1]} of {measured.num_layers} layers in parallel (graceful: {HALF} or more)"
        found.append(above(what, parallel.at(quarter[-1:])[:, 0], HALF))
    for task in measured.scores.tasks:
        if task.startswith(ARITHMETIC) and (curve := measured.curve("parallel", task)) and shared({"parallel": curve}):
            values = matched({"parallel": curve})["parallel"]
            found.append(above(f"score kept on {task} in parallel, mean", values, HALF, decides=False))
    return found


def by_task(measured: Measurements) -> list[Evidence]:
    """Question 6: what reasoning and semantic tasks keep when layers run in another order."""
    tasks = measured.scores.tasks
    groups = [[task for task in tasks if task.startswith(prefixes)] for prefixes in (SEMANTIC, REASONING)]
    if not all(groups):
        return []
    differences, found = [], []
    for strategy in ORDERS:
        curves = {task: measured.curve(strategy, task) for group in groups for task in group}
        means = matched(curves)
        if not means:
            continue
        semantic, reasoning = (np.mean([means[task] for task in group], axis=0) for group in groups)
        differences.append(semantic - reasoning)
        found.append(
            difference(f"under {measured.name(strategy)}: semantic minus reasoning", differences[-1], decides=False)
        )
    if not differences:
        return []
    what = (
        f"score kept on semantic tasks ({', '.join(groups[0])}) minus that on reasoning tasks ({', '.join(groups[1])})"
    )
    return [difference(f"{what}, mean over strategies and numbers of layers", np.mean(differences, axis=0)), *found]


def without_arithmetic(measured: Measurements) -> str:
    """Questions 5 and 6 of the paper turn on GSM8K: says where it is missing."""
    if any(task.startswith(ARITHMETIC) for task in measured.scores.tasks):
        return ""
    here = any(score.task.startswith(ARITHMETIC) for score in measured.scores.left_out)
    why = "is left out, see the notes" if here else "is not among these benchmarks"
    return f"Arithmetic (GSM8K), where the paper saw the largest loss, {why}."


def _against_skip(measured: Measurements, strategy: str, *, decides: bool) -> list[Evidence]:
    curves = measured.curves("skip", strategy)
    means = matched(curves)
    if len(means) < 2:
        return []
    what = f"advantage of {measured.name(strategy)} over skip, {over(curves)}"
    return [difference(what, means[strategy] - means["skip"], decides=decides)]


def _counts(measured: Measurements, curves: Mapping[str, Curve]) -> str:
    seeds = int(measured.curve("random").seeds.max())
    return f"{over(curves)} and {seeds} seed{'s' * (seeds != 1)}"

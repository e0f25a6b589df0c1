"""The front of what a search looked at, and what documents that it did not see say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxpaint.plans.plan import Plan
from jaxpaint.results.search import Estimate


def front(scores: Mapping[Plan, float]) -> tuple[Plan, ...]:
    """Plans than which no other one is as cheap, as shallow and as good: by cost, then depth."""
    order = sorted(scores, key=lambda plan: (plan.cost, plan.depth, -scores[plan], str(plan)))
    kept: list[Plan] = []
    for plan in order:
        if math.isfinite(scores[plan]) and not any(
            other.depth <= plan.depth and scores[other] >= scores[plan] for other in kept
        ):
            kept.append(plan)
    return tuple(kept)


def spread(plans: Sequence[Plan], leading: Sequence[Plan], number: int) -> tuple[Plan, ...]:
    """At most `number` of the front's plans, the leading ones among them, the others evenly along it."""
    if len(plans) <= number:
        return tuple(plans)
    others, room = [plan for plan in plans if plan not in leading], number - len(leading)
    places: list[int] = np.linspace(0, len(others) - 1, room).round().astype(int).tolist() if room else []
    chosen = {*leading, *(others[place] for place in places)}
    return tuple(plan for plan in plans if plan in chosen)


def mean_difference(
    ours: Sequence[Float[np.ndarray, " documents"]], theirs: Sequence[Float[np.ndarray, " documents"]]
) -> Estimate:
    """Of paired documents, task by task, each task counting the same; its standard error by the documents' spread."""
    means, variances = [], []
    for one, other in zip(ours, theirs, strict=True):
        with np.errstate(invalid="ignore"):
            difference = one - other
            means.append(float(np.mean(difference)))
            variances.append(float(np.var(difference, ddof=1)) / len(difference))
    return Estimate(sum(means) / len(means), math.sqrt(sum(variances)) / len(means))


def shrinkage(search: Estimate, held_out: Estimate) -> Estimate:
    """How much better the search's documents made a plan look."""
    return Estimate(search.value - held_out.value, math.hypot(search.stderr, held_out.stderr))

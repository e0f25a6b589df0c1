"""Evidence on questions 7 and 8: looping the parallel block, and all strategies against each other."""

from __future__ import annotations

import numpy as np

from jaxpaint.plans.strategies import ranked
from jaxpaint.report.evidence import Evidence, above, difference, matched, over
from jaxpaint.report.measurements import Measurements

BEST = ("random", "looped-parallel")
WORST = "middle-repeat"
NO_GROWTH = 0.1  # an iteration for ten layers: growth wholly below it is none
MIN_COLUMNS = MIN_ITERATIONS = 3  # for a trend of the best number of iterations


def looping(measured: Measurements) -> list[Evidence]:
    """Question 7: looped against plain parallel (figure 9), and the best number of iterations (figure 10)."""
    found: list[Evidence] = []
    curves = measured.curves("parallel", "looped-parallel")
    means = matched(curves)
    if len(means) == 2:
        what = f"advantage of {measured.name('looped-parallel')} over parallel, {over(curves)}"
        found.append(difference(what, means["looped-parallel"] - means["parallel"]))
    affected, values = iteration_map(measured)
    kept = (affected > 1) & ~np.isnan(values[0]).any(axis=0)
    affected, values = affected[kept], values[:, :, kept]
    if len(affected) >= MIN_COLUMNS and values.shape[1] >= MIN_ITERATIONS:
        best = np.array(measured.study.iterations)[values.argmax(axis=1)]
        what = "growth of the best number of iterations for each further parallel layer"
        centred = affected - affected.mean()
        growth = (best * centred).sum(axis=-1) / (centred**2).sum()  # by least squares
        found.append(above(what, growth, 0.0, slack=NO_GROWTH))
        what = "best number of iterations per parallel layer"
        ratio = (best * affected).sum(axis=1) / (affected**2).sum()
        found.append(above(what, ratio, 0.0, decides=False))
    return found


def iteration_map(measured: Measurements) -> tuple[np.ndarray, np.ndarray]:
    """Figure 10: numbers of parallel layers [M], and the median under each number of iterations N: [1 + DRAWS, N, M].

    The iterations are `measured.study.iterations`; NaN where there is no score.
    """
    curves = [measured.curve("looped-parallel", iterations=count) for count in measured.study.iterations]
    if measured.study.looped is None:
        return np.empty(0, np.int64), np.empty((1, 0, 0))
    affected = np.array(sorted({int(a) for c in curves for a in (*c.affected, *c.missing)}), np.int64)
    values = np.full((1 + len(curves[0].draws), len(curves), len(affected)), np.nan)
    for row, found in enumerate(curves):
        values[:, row, np.searchsorted(affected, found.affected)] = found.at(found.affected)
    return affected, values


def least_harm(measured: Measurements) -> list[Evidence]:
    """Question 8: all strategies at the same numbers of affected layers (figure 11)."""
    curves = measured.curves(*ranked())
    means = matched(curves)
    order = sorted(means, key=lambda strategy: -means[strategy][0])
    context = [above(f"score under {measured.name(s)}, {over(curves)}", means[s], 0.5, decides=False) for s in order]
    others = [strategy for strategy in means if strategy not in (*BEST, WORST)]
    if not {*BEST, WORST} <= means.keys() or not others:
        return context
    names = " and ".join(measured.name(strategy) for strategy in BEST)
    worse = np.max([means[strategy] for strategy in (*others, WORST)], axis=0)
    better = np.min([means[strategy] for strategy in means if strategy != WORST], axis=0)
    return [
        difference(
            f"worse one of {names} minus the best of the other strategies",
            np.min([means[strategy] for strategy in BEST], axis=0) - worse,
        ),
        difference(f"second worst strategy minus {measured.name(WORST)}", better - means[WORST]),
        *context,
    ]


def ranking(measured: Measurements) -> str:
    """Question 8 in one sentence."""
    means = {strategy: values[0] for strategy, values in matched(measured.curves(*ranked())).items()}
    if len(means) < 2:
        return ""
    order = sorted(means, key=lambda strategy: -means[strategy])
    return f"From least harm to most: {', '.join(f'{measured.name(s)} ({means[s]:.2f})' for s in order)}."

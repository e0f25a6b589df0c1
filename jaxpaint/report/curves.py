"""A strategy's score over the number of affected layers, seeds averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.bootstrap import DRAWS, generator, interval
from jaxpaint.report.data import Study, VariantRow


class Scores(Protocol):
    """Scores of every plan P on tasks, and one number of all tasks, such as their median."""

    def of(self, task: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Point [P] and draws [DRAWS, P] of one task, or of all where `task` is None."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One strategy under one task, or under the median over tasks, over the number of affected layers N.

    `value`, `low` and `high` (the ends of the 95 % interval over documents and seeds) are float64 [N], `draws`
    float64 [DRAWS, N]. `seeds` counts the seeds averaged, `lowest` and `highest` are over them. `cost` and `depth` are
    means over the seeds' plans. `missing` are numbers of affected layers that were asked for and have no score.
    """

    strategy: str
    affected: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray
    seeds: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    cost: np.ndarray
    depth: np.ndarray
    missing: np.ndarray

    def __bool__(self) -> bool:
        return len(self.affected) > 0

    def at(self, affected: Iterable[int]) -> np.ndarray:
        """Draws at some of the numbers of affected layers, below the point estimates: [1 + DRAWS, those]."""
        where = np.searchsorted(self.affected, list(affected))
        return np.vstack([self.value[where], self.draws[:, where]])


def curve(
    study: Study,
    scores: Scores,
    strategy: str,
    *,
    task: str | None = None,
    iterations: int | None = None,
    times: int | None = None,
) -> Curve:
    """The curve of a strategy; `iterations` of looped-parallel and `times` of block-repeat choose among its plans.

    One iteration of looped-parallel is `parallel`, whatever it was asked as.
    """
    if strategy == "looped-parallel" and iterations == 1:
        one = [v for v in study.variants if v.strategy == strategy and v.iterations == 1]
        chosen = one + [v for v in study.variants if v.strategy == "parallel"]
    else:
        chosen = [
            v for v in study.variants if v.strategy == strategy and v.iterations == iterations and v.times == times
        ]
    return _curve(study, scores, strategy, [v for v in chosen if v.affected is not None], task)


def own_plans(study: Study, scores: Scores, *, task: str | None = None) -> Curve:
    """Plans of the user's own, one point each in the order they were added; `affected` is their number in it."""
    own = [replace(v, affected=number) for number, v in enumerate(v for v in study.variants if v.strategy == CUSTOM)]
    return _curve(study, scores, CUSTOM, own, task)


def _curve(study: Study, scores: Scores, strategy: str, variants: list[VariantRow], task: str | None) -> Curve:
    point, draws = scores.of(task)
    variants = [v for v in variants if study.has_cell(v.column)]
    if all(v.column == study.full for v in variants):  # one middle layer in any order is the full model
        variants = []
    columns: dict[int, list[int]] = defaultdict(list)
    for variant in variants:
        assert variant.affected is not None
        columns[variant.affected].append(variant.column)
    rows, missing = [], []
    for affected, all_columns in sorted(columns.items()):
        # One seed, one sample: with few layers several seeds give one order, and parallel is looped-parallel once.
        seeded = strategy == "random"
        found = [c for c in (all_columns if seeded else sorted(set(all_columns))[:1]) if not np.isnan(point[c])]
        if len(found) < len(all_columns if seeded else all_columns[:1]):
            missing.append(affected)
        if found:
            rows.append((affected, found))
    mean = [point[found].mean() for _, found in rows]
    drawn = [_seed_mean(draws[:, found], affected) for affected, found in rows]
    stacked = np.stack(drawn, axis=1) if drawn else np.empty((DRAWS, 0))
    low, high = interval(stacked)
    return Curve(
        strategy,
        np.array([affected for affected, _ in rows], np.int64),
        np.array(mean, np.float64),
        low,
        high,
        stacked,
        np.array([len(found) for _, found in rows], np.int64),
        np.array([point[found].min() for _, found in rows], np.float64),
        np.array([point[found].max() for _, found in rows], np.float64),
        np.array([np.mean([study.plans[c].cost for c in found]) for _, found in rows], np.float64),
        np.array([np.mean([study.plans[c].depth for c in found]) for _, found in rows], np.float64),
        np.array(missing, np.int64),
    )


def _seed_mean(draws: np.ndarray, affected: int) -> np.ndarray:
    """Draws [DRAWS, seeds] averaged over seeds, which are resampled as the documents were: [DRAWS]."""
    num_draws, num_seeds = draws.shape
    if num_seeds == 1:
        return draws[:, 0]
    chosen = generator("seeds", affected).integers(num_seeds, size=(num_draws, num_seeds))
    return np.take_along_axis(draws, chosen, axis=1).mean(axis=1)

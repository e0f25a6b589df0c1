"""A strategy's score over the number of affected layers, seeds averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from jaxpaint.plans.strategies import CUSTOM, entry
from jaxpaint.report.bootstrap import DRAWS, generator, interval
from jaxpaint.report.data import Study
from jaxpaint.report.normalise import Scores
from jaxpaint.results.reading import VariantRow


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
    task: str | None = None,
    *,
    iterations: int | None = None,
    times: int | None = None,
) -> Curve:
    """The curve of a strategy; `iterations` of looped-parallel and `times` of block-repeat choose among its plans.

    Without `iterations` they are `study.looped`. One iteration is `parallel`, whatever it was asked as.
    """
    if strategy == "looped-parallel" and iterations is None:
        iterations = study.looped
    chosen = [v for v in study.variants if (v.strategy, v.iterations, v.times) == (strategy, iterations, times)]
    if strategy == "looped-parallel" and iterations == 1:
        chosen += [v for v in study.variants if v.strategy == "parallel"]
    return _curve(study, scores, strategy, [v for v in chosen if v.affected is not None], task)


def own_plans(study: Study, scores: Scores) -> Curve:
    """Plans of the user's own, one point each in the order they were added; `affected` is their number in it."""
    own = [replace(v, affected=number) for number, v in enumerate(v for v in study.variants if v.strategy == CUSTOM)]
    return _curve(study, scores, CUSTOM, own, None)


def _curve(study: Study, scores: Scores, strategy: str, variants: list[VariantRow], task: str | None) -> Curve:
    point, draws = scores.of(task)
    rows, missing = [], []
    for affected, asked in _samples(study, strategy, variants):
        found = [column for column in asked if not np.isnan(point[column])]
        if len(found) < len(asked):
            missing.append(affected)
        if found:
            rows.append((affected, found))

    def each(measure: Callable[[list[int]], float]) -> np.ndarray:
        return np.array([measure(found) for _, found in rows], np.float64)

    drawn = [_seed_mean(draws[:, found], affected) for affected, found in rows]
    stacked = np.stack(drawn, axis=1) if drawn else np.empty((DRAWS, 0))
    low, high = interval(stacked)
    costs, depths = (np.array([getattr(plan, name) for plan in study.plans]) for name in ("cost", "depth"))
    return Curve(
        strategy,
        np.array([affected for affected, _ in rows], np.int64),
        each(lambda found: point[found].mean()),
        low,
        high,
        stacked,
        np.array([len(found) for _, found in rows], np.int64),
        each(lambda found: point[found].min()),
        each(lambda found: point[found].max()),
        each(lambda found: costs[found].mean()),
        each(lambda found: depths[found].mean()),
        np.array(missing, np.int64),
    )


def _samples(study: Study, strategy: str, variants: list[VariantRow]) -> list[tuple[int, list[int]]]:
    """By the number of affected layers, the columns of the plans that were asked for and are averaged."""
    asked = [v for v in variants if study.has_cell(v.column)]
    if all(v.column == study.full for v in asked):  # one middle layer in any order is the full model
        return []
    columns: dict[int, list[int]] = defaultdict(list)
    for variant in asked:
        assert variant.affected is not None
        columns[variant.affected].append(variant.column)
    # One seed, one sample: with few layers several seeds give one order, and parallel is looped-parallel once.
    seeded = "seed" in entry(strategy).options
    return [(affected, found if seeded else [min(found)]) for affected, found in sorted(columns.items())]


def _seed_mean(draws: np.ndarray, affected: int) -> np.ndarray:
    """Draws [DRAWS, seeds] averaged over seeds, which are resampled as the documents were: [DRAWS]."""
    num_draws, num_seeds = draws.shape
    if num_seeds == 1:
        return draws[:, 0]
    chosen = generator("seeds", affected).integers(num_seeds, size=(num_draws, num_seeds))
    return np.take_along_axis(draws, chosen, axis=1).mean(axis=1)

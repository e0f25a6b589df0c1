"""Scores as the paper shows them: (score - chance) / (full model's score - chance), and the median over benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpaint.report.bootstrap import DRAWS, Means, resampled_means
from jaxpaint.report.data import Study, TaskResults

ABOVE_CHANCE = 2.0
"""Standard errors by which the full model must beat chance: below that, normalising shows noise blown up."""


@dataclass(frozen=True)
class FullScore:
    """The full model on one task; `left_out` says why the task cannot be normalised, None where it can."""

    task: str
    metric: str
    chance: float | None
    value: float
    stderr: float
    documents: int
    left_out: str | None


@dataclass(frozen=True, eq=False)
class Normalised:
    """Normalised scores of every plan P on the tasks N that the median is over, 1 for the full model, 0 for guessing.

    `point` is float64 [N, P] and `draws` [N, DRAWS, P], resampled over documents; NaN where a plan has no score.
    """

    tasks: tuple[str, ...]
    point: np.ndarray
    draws: np.ndarray
    full: tuple[FullScore, ...]

    @property
    def left_out(self) -> tuple[FullScore, ...]:
        return tuple(score for score in self.full if score.left_out)

    @cached_property
    def median(self) -> tuple[np.ndarray, np.ndarray]:
        """Point [P] and draws [DRAWS, P] of the median over tasks.

        It is NaN where any task is missing: plans are compared on the same tasks or not at all.
        """
        if not self.tasks:
            return np.full(self.point.shape[1], np.nan), np.full(self.draws.shape[1:], np.nan)
        return np.median(self.point, axis=0), np.median(self.draws, axis=0)

    def of(self, task: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Point and draws of one task, or of the median over all where `task` is None."""
        if task is None:
            return self.median
        row = self.tasks.index(task)
        return self.point[row], self.draws[row]


def normalise(study: Study) -> Normalised:
    """Every plan of a study, on each task whose full model is clearly above chance."""
    full = tuple(_full_score(study, result) for result in study.results)
    kept = [
        (result, score.chance)
        for result, score in zip(study.results, full, strict=True)
        if score.left_out is None and score.chance is not None
    ]
    columns = len(study.plans)
    points, draws = [], []
    for result, chance in kept:
        assert study.full is not None
        means = resampled_means(result.per_document, study.full, result.task.name)
        points.append((means.value - chance) / (means.reference - chance))
        draws.append(_normalised_draws(means, chance, points[-1]))
    shape = draws[0].shape if draws else (DRAWS, columns)
    return Normalised(
        tuple(result.task.name for result, _ in kept),
        np.array(points).reshape(len(kept), columns),
        np.array(draws).reshape(len(kept), *shape),
        full,
    )


def _normalised_draws(means: Means, chance: float, point: np.ndarray) -> np.ndarray:
    """The ratio's first-order change with the resampled score and the resampled full model's.

    So the full model is 1 in every draw, and no draw explodes where the full model's resample comes near chance.
    """
    margin = means.reference - chance
    change = (means.draws - means.value) - point * (means.reference_draws - means.reference)
    return point + change / margin


def _full_score(study: Study, result: TaskResults) -> FullScore:
    task, column = result.task, study.full
    if column is None:
        return FullScore(task.name, task.metric, task.chance, math.nan, math.nan, 0, "the full model has no result")
    value, documents = float(result.main.value[column]), result.per_document[column]
    documents = documents[~np.isnan(documents)]
    count = len(documents) or int(result.documents[column])
    stderr = float(documents.std(ddof=1) / math.sqrt(count)) if len(documents) > 1 else math.nan
    reason = None
    if math.isnan(value):
        reason = "the full model has no result"
    elif task.chance is None:
        reason = "the score of guessing is not known"
    elif not result.main.higher_is_better:
        reason = f"lower {task.metric} is better, so it cannot be normalised"
    elif len(documents) < 2 or not math.isclose(value, documents.mean(), rel_tol=1e-6, abs_tol=1e-9):
        reason = f"{task.metric} is not the mean of stored per-document scores"
    elif value - task.chance <= ABOVE_CHANCE * stderr:
        reason = (
            f"the full model's {task.metric} of {value:.3f} ± {stderr:.3f} is not above chance, {task.chance:.3g}, by "
            f"more than {ABOVE_CHANCE:g} standard errors"
        )
    return FullScore(task.name, task.metric, task.chance, value, stderr, count, reason)

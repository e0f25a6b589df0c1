"""Scores under every plan: (score - chance) / (full model's score - chance), as the paper has them, or as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpaint.report.bootstrap import DRAWS, Means, generator, resampled_means
from jaxpaint.report.data import Parts, Study, TaskResults

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
class Scores:
    """Scores of every plan P on the tasks N, and what `together` makes of all tasks.

    `point` is float64 [N, P] and `draws` [N, DRAWS, P]; NaN where a plan has no score.
    """

    tasks: tuple[str, ...]
    point: np.ndarray
    draws: np.ndarray
    together: Callable[..., np.ndarray]

    @cached_property
    def over_tasks(self) -> tuple[np.ndarray, np.ndarray]:
        """Point [P] and draws [DRAWS, P] of all tasks together.

        It is NaN where any task is missing: plans are compared on the same tasks or not at all.
        """
        if not self.tasks:
            return np.full(self.point.shape[1], np.nan), np.full(self.draws.shape[1:], np.nan)
        return self.together(self.point, axis=0), self.together(self.draws, axis=0)

    def of(self, task: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Point and draws of one task, or of all together where `task` is None."""
        if task is None:
            return self.over_tasks
        row = self.tasks.index(task)
        return self.point[row], self.draws[row]


@dataclass(frozen=True, eq=False)
class Normalised(Scores):
    """Scores that are 1 for the full model, 0 for guessing, and their median; draws resample the documents.

    `full` has the tasks that count, groups in place of their members. `means` are not normalised, by task and group:
    those of each whose main metric is a mean over documents.
    """

    full: tuple[FullScore, ...]
    means: Mapping[str, Means]

    @property
    def left_out(self) -> tuple[FullScore, ...]:
        return tuple(score for score in self.full if score.left_out)


def is_at_chance(score: FullScore) -> bool:
    """Whether the full model does not clearly beat guessing."""
    return score.chance is not None and score.value - score.chance <= ABOVE_CHANCE * score.stderr


def as_they_are(results: Sequence[TaskResults], name: str) -> Scores:
    """The tasks' main metrics, and their average; the draws of a plan depend on the benchmark and on `name` alone.

    Draws are normal around the point with the stored standard error: correlations and F1 are no means over examples,
    so there is nothing to resample.
    """
    shape = (len(results), -1 if results else 0)
    point = np.array([result.main.value for result in results]).reshape(shape)
    errors = np.array([np.nan_to_num(result.main.stderr) for result in results]).reshape(shape)
    noise = [generator(name, result.task.benchmark).standard_normal((DRAWS, 1)) for result in results]
    draws = point[:, None] + errors[:, None] * np.array(noise).reshape(len(results), DRAWS, 1)
    return Scores(tuple(result.task.name for result in results), point, draws, np.mean)


def normalise(study: Study) -> Normalised:
    """Every plan of a study, on each task, or group in place of its tasks, whose full model is clearly above chance."""
    full = tuple(full_score(study, result) for result in study.counted)
    kept = [
        (result, score.chance)
        for result, score in zip(study.counted, full, strict=True)
        if score.left_out is None and score.chance is not None
    ]
    columns = len(study.plans)
    all_means = document_means(study)
    points, draws = [], []
    for result, chance in kept:
        means = all_means[result.task.name]
        points.append((means.value - chance) / (means.reference - chance))
        draws.append(_normalised_draws(means, chance, points[-1]))
    shape = draws[0].shape if draws else (DRAWS, columns)
    return Normalised(
        tuple(result.task.name for result, _ in kept),
        np.array(points).reshape(len(kept), columns),
        np.array(draws).reshape(len(kept), *shape),
        np.median,
        full,
        all_means,
    )


def document_means(study: Study) -> dict[str, Means]:
    """By task and group, the means of every plan beside the full model's: of those whose main metric is a mean over
    documents.

    Of a group documents are resampled task by task, so that tasks are independent.
    """
    full = study.full
    if full is None:
        return {}

    found, of_tasks = {}, {}
    for result in study.shown:
        if not _is_mean(result, full):
            continue
        means = []
        for part in result.parts.parts:
            key = part.task.id, result.task.metric, result.task.filter  # a task and the groups around it draw alike
            if key not in of_tasks:
                of_tasks[key] = resampled_means(part.scores, full, part.task.name)
            means.append(of_tasks[key])
        found[result.task.name] = means[0] if result.group is None else _weighted(result.group, means, full)
    return found


def _weighted(own: Parts, means: Sequence[Means], full: int) -> Means:
    """The mean of tasks' means, under each plan weighted by the documents that it shares with the full model."""
    shares = own.shares(np.array([_shared(part.scores, full) for part in own.parts]))

    def together(of: Callable[[Means], np.ndarray]) -> np.ndarray:
        return sum((share * of(each) for share, each in zip(shares, means, strict=True)), np.zeros(()))

    return Means(
        together(lambda each: each.value),
        together(lambda each: each.reference),
        together(lambda each: each.draws),
        together(lambda each: each.reference_draws),
    )


def _shared(scores: np.ndarray, full: int) -> np.ndarray:
    """How many documents each plan shares with the full model, [P]."""
    return (~np.isnan(scores) & ~np.isnan(scores[full])).sum(axis=1)


def _is_mean(result: TaskResults, column: int) -> bool:
    """Whether a plan's main metric is the mean of what is stored of its documents, of a group that of its tasks'."""
    value, own = float(result.main.value[column]), result.parts
    documents = [part.scores[column][~np.isnan(part.scores[column])] for part in own.parts]
    if not documents or min(map(len, documents)) < 2:
        return False
    shares = own.shares(np.array([[len(each)] for each in documents]))[:, 0]
    mean = sum(share * each.mean() for share, each in zip(shares, documents, strict=True))
    return math.isclose(value, mean, rel_tol=1e-6, abs_tol=1e-9)


def _normalised_draws(means: Means, chance: float, point: np.ndarray) -> np.ndarray:
    """The ratio's first-order change with the resampled score and the resampled full model's.

    So the full model is 1 in every draw, and no draw explodes where the full model's resample comes near chance.
    """
    change = (means.draws - means.value) - point * (means.reference_draws - means.reference)
    return point + change / (means.reference - chance)


def full_score(study: Study, result: TaskResults) -> FullScore:
    """The full model on a task or group of a study."""
    task, column = result.task, study.full
    missing = "the full model has no result"
    if column is None:
        return FullScore(task.name, task.metric, task.chance, math.nan, math.nan, 0, missing)
    value, documents = float(result.main.value[column]), result.per_document[column]
    documents = documents[~np.isnan(documents)]
    count = len(documents) or int(result.documents[column])
    stderr = float(documents.std(ddof=1) / math.sqrt(count)) if len(documents) > 1 else math.nan
    if result.group is not None:
        stderr = float(result.main.stderr[column])
    reason = None
    if math.isnan(value):
        reason = missing
    elif task.chance is None:
        reason = "the score of guessing is not known"
    elif not result.main.higher_is_better:
        reason = f"lower {task.metric} is better, so it cannot be normalised"
    elif not _is_mean(result, column):
        reason = f"{task.metric} is not the mean of stored per-document scores"
    elif value - task.chance <= ABOVE_CHANCE * stderr:  # is_at_chance
        reason = (
            f"the full model's {task.metric} of {value:.3f} ± {stderr:.3f} is not above chance, {task.chance:.3g}, by "
            f"more than {ABOVE_CHANCE:g} standard errors"
        )
    return FullScore(task.name, task.metric, task.chance, value, stderr, count, reason)

"""Every plan beside the full model on the same documents: scores with intervals, the difference, and what flipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.bootstrap import DRAWS, Means, generator, interval
from jaxpaint.report.data import Study, TaskResults
from jaxpaint.results.search import holm


@dataclass(frozen=True)
class Number:
    """A value with the ends of its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


NOTHING = Number(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Flips:
    """Documents of a task on which a plan and the full model differ, by their numbers: right by the one alone."""

    lost: tuple[int, ...]
    gained: tuple[int, ...]


@dataclass(frozen=True)
class PlanScore:
    """A plan's scores: of each task, of all together, and less the full model's on the same documents.

    `name` is the label of the strategy that it stands for first, or its own text. `p` is that of the difference,
    two-sided, after Holm over all plans beside the full model; NaN where it cannot be had, as for the full model
    itself. `flips` are None where documents are not right or wrong, and of groups, whose tasks have them.
    `milliseconds` are those to the first new token.
    """

    column: int
    strategy: str
    name: str
    tasks: tuple[Number, ...]
    average: Number
    difference: Number
    p: float
    flips: tuple[Flips | None, ...]
    milliseconds: float


@dataclass(frozen=True, eq=False)
class PlanScores:
    """All plans that have a score, best first. `averaged` are the tasks of the average, whose higher score is better;
    groups are in it in place of their tasks.

    `machine` is what the plans were timed on, empty where none was.
    """

    study: Study
    rows: tuple[PlanScore, ...]
    averaged: tuple[str, ...]
    machine: str

    @property
    def results(self) -> tuple[TaskResults, ...]:
        """The groups and tasks of `PlanScore.tasks`: those of the average come first."""
        return self.study.shown

    @property
    def beside(self) -> slice:
        """Which of `results` stand beside the average: all, but for a group that is alone in it."""
        alone = len(self.study.counted) == len(self.averaged) == 1 and self.results[0].group is not None
        return slice(int(alone), None)

    @cached_property
    def full(self) -> PlanScore | None:
        """The full model's row."""
        return next((row for row in self.rows if row.column == self.study.full), None)

    @property
    def of_average(self) -> str:
        """What the average is of, in words."""
        if len(self.averaged) == 1:
            return self.averaged[0]
        return f"average of {len(self.averaged)} tasks"


def plan_scores(study: Study, means: Mapping[str, Means]) -> PlanScores:
    """Of a study whose `document_means` are these."""
    columns = [column for column in range(len(study.plans)) if _has_score(study, column)]
    per_task = [_task_numbers(result, means.get(result.task.name)) for result in study.shown]
    averaged = [result for result in study.counted if result.main.higher_is_better]
    average, difference = _together(study, averaged, means)
    others = [column for column in columns if column != study.full]
    raw = _p_values(study, averaged, means).tolist()
    tested = [column for column in others if not math.isnan(raw[column])]
    corrected = dict(zip(tested, holm([raw[column] for column in tested]), strict=True))
    named: dict[int, tuple[str, str]] = {}
    for variant in study.variants:
        named.setdefault(variant.column, (variant.strategy, variant.label))
    times, machine = _milliseconds(study)
    rows = [
        PlanScore(
            column,
            *named.get(column, (CUSTOM, study.plans[column].text)),
            tuple(numbers[column] for numbers in per_task),
            average[column],
            difference[column] if column != study.full else NOTHING,
            corrected.get(column, math.nan),
            tuple(_flips(result, study.full, column) for result in study.shown),
            times.get(column, math.nan),
        )
        for column in columns
    ]
    rows.sort(key=lambda row: _order(row, study))
    return PlanScores(study, tuple(rows), tuple(result.task.name for result in averaged), machine)


def _order(row: PlanScore, study: Study) -> tuple[float, float, int]:
    """Best first; where nothing is averaged, by the first task."""
    value = row.average.value
    if math.isnan(value) and not any(result.main.higher_is_better for result in study.results) and row.tasks:
        value = -row.tasks[0].value
    return (math.inf if math.isnan(value) else -value), study.plans[row.column].cost, row.column


def _has_score(study: Study, column: int) -> bool:
    return any(not math.isnan(result.main.value[column]) for result in study.results)


def _task_numbers(result: TaskResults, means: Means | None) -> list[Number]:
    values = result.main.value
    if means is None:
        half = 1.96 * result.main.stderr
        low, high = values - half, values + half
    else:
        drawn = np.broadcast_to(means.draws, (DRAWS, len(values)))
        low, high = interval(drawn)
    return [Number(*map(float, each)) for each in zip(values, low, high, strict=True)]


def _together(
    study: Study, averaged: Sequence[TaskResults], means: Mapping[str, Means]
) -> tuple[list[Number], list[Number]]:
    """The average over tasks of every plan, and its difference from the full model's; NaN where a task is missing.

    A task whose metric is no mean over documents has no paired difference: its average is drawn from its standard
    error, and the difference then has no interval.
    """
    plans = len(study.plans)
    if not averaged or study.full is None:
        return [NOTHING] * plans, [NOTHING] * plans
    value, difference = np.zeros(plans), np.zeros(plans)
    drawn, apart = np.zeros((DRAWS, plans)), np.zeros((DRAWS, plans))
    for result in averaged:
        main, found = result.main, means.get(result.task.name)
        value += main.value / len(averaged)
        if found is None:
            noise = generator("plans", result.task.benchmark).standard_normal((DRAWS, 1))
            drawn += (main.value + np.nan_to_num(main.stderr) * noise) / len(averaged)
            difference += (main.value - main.value[study.full]) / len(averaged)
            apart += np.nan
        else:
            drawn += found.draws / len(averaged)
            difference += (found.value - found.reference) / len(averaged)
            apart += (found.draws - found.reference_draws) / len(averaged)
    return _numbers(value, drawn), _numbers(difference, apart)


def _numbers(values: np.ndarray, draws: np.ndarray) -> list[Number]:
    low, high = interval(draws)
    return [Number(*map(float, each)) for each in zip(values, low, high, strict=True)]


def _p_values(study: Study, averaged: Sequence[TaskResults], means: Mapping[str, Means]) -> np.ndarray:
    """Of no difference from the full model: two-sided, as if each document's difference had either sign, float64 [P].

    McNemar's test with Edwards' correction where documents are right or wrong, over several tasks by the variances of
    their sums; a group's tasks are several, weighted as in its score. NaN where there is no paired difference.
    """
    plans = len(study.plans)
    if not averaged or study.full is None or any(result.task.name not in means for result in averaged):
        return np.full(plans, np.nan)
    total, variance, step = np.zeros(plans), np.zeros(plans), math.inf
    for result in averaged:
        own = result.parts
        differences = [part.scores - part.scores[study.full] for part in own.parts]
        sizes = np.array([(~np.isnan(each)).sum(axis=1) for each in differences], np.float64)
        shares = own.shares(sizes)
        for share, each, size in zip(shares, differences, sizes, strict=True):
            difference = np.nan_to_num(each)
            with np.errstate(invalid="ignore", divide="ignore"):
                total += share * difference.sum(axis=1) / size
                variance += share**2 * (difference**2).sum(axis=1) / size**2
            whole = bool(np.isin(difference, (-1, 0, 1)).all())
            step = min(step, share[study.full] / difference.shape[1] if whole else 0.0)
    missing = np.any([np.isnan(result.main.value) for result in averaged], axis=0)
    distance = np.maximum(np.abs(total) - step, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.where(variance > 0, distance / np.sqrt(variance), 0.0)
    found = np.array([math.erfc(each / math.sqrt(2)) for each in deviations])
    return np.where(missing | np.isnan(total), np.nan, found)


def _flips(result: TaskResults, full: int | None, column: int) -> Flips | None:
    if full is None or column == full:
        return None
    ours, theirs = result.per_document[column], result.per_document[full]
    shared = ~np.isnan(ours) & ~np.isnan(theirs)
    if not shared.any() or not np.isin([*ours[shared], *theirs[shared]], (0, 1)).all():
        return None
    return Flips(
        tuple(result.numbers[shared & (theirs == 1) & (ours == 0)].tolist()),
        tuple(result.numbers[shared & (theirs == 0) & (ours == 1)].tolist()),
    )


def _milliseconds(study: Study) -> tuple[dict[int, float], str]:
    """To the first new token, by column, on the machine and at the sizes that most plans were timed under."""
    settings = [each.latency.setting for each in study.latencies]
    if not settings:
        return {}, ""
    setting = max(dict.fromkeys(settings), key=settings.count)
    timed = [each for each in study.latencies if each.latency.setting == setting]
    words = f"{setting.sizes}, on {setting.machine}"
    return {each.column: 1000 * each.latency.first.median for each in timed}, words

"""What several models of one store say beside each other: verdicts, what is left under each strategy, full scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxpaint.plans.strategies import entry, ranked
from jaxpaint.report.bootstrap import interval
from jaxpaint.report.evidence import matched
from jaxpaint.report.findings import Answer
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.tables import Table, Value

NOT_ASKED = "not asked"


class Compared(NamedTuple):
    """One model among several, under the name that the page has for it."""

    title: str
    measured: Measurements
    answers: Sequence[Answer]


def across_tables(models: Sequence[Compared]) -> list[Table]:
    """Those with a column for each of two models or more; tables without rows are left out."""
    if len(models) < 2:
        return []
    return [table for table in (_questions(models), _strategies(models), _tasks(models)) if table.rows]


def verdicts(models: Sequence[Compared]) -> Iterator[tuple[int, str, list[str]]]:
    """Number and text of each question that a model was asked, and what each says of it."""
    for answers in zip(*(model.answers for model in models if model.answers), strict=True):
        if any(answer.asked for answer in answers):
            given = iter(answers)
            own = [next(given) if model.answers else None for model in models]
            said = [answer.verdict if answer is not None and answer.asked else NOT_ASKED for answer in own]
            yield answers[0].question.number, answers[0].question.text, said


def _questions(models: Sequence[Compared]) -> Table:
    rows: list[tuple[Value, ...]] = [(number, text, *said) for number, text, said in verdicts(models)]
    columns = ("question", "text", *(model.title for model in models))
    return Table("across-questions", "The paper’s questions, by model", columns, tuple(rows))


def _strategies(models: Sequence[Compared]) -> Table:
    """Each model's mean over the numbers of affected layers that all its strategies have."""
    found = [matched(model.measured.curves(*ranked())) for model in models]
    rows: list[tuple[Value, ...]] = []
    for strategy in ranked():
        if any(strategy in means for means in found):
            numbers = (number for means in found for number in _share(means.get(strategy)))
            rows.append((entry(strategy).words, *numbers))
    columns = [f"{model.title}{part}" for model in models for part in ("", ", low", ", high")]
    title = "The share of the score that each strategy leaves (1: full model, 0: guessing), by model"
    return Table("across-strategies", title, ("strategy", *columns), tuple(rows))


def _share(means: np.ndarray | None) -> tuple[Value, Value, Value]:
    """A mean and its 95 % interval, of the point and the draws below it."""
    if means is None:
        return None, None, None
    low, high = interval(means[1:])
    return float(means[0]), float(low), float(high)


def _tasks(models: Sequence[Compared]) -> Table:
    """The full models' scores on the tasks that any has."""
    scores = [{(s.task, s.metric): s for s in model.measured.scores.full} for model in models]
    rows: list[tuple[Value, ...]] = []
    for task, metric in dict.fromkeys(key for own in scores for key in own):
        numbers: list[Value] = []
        for own in scores:
            score = own.get((task, metric))
            numbers += [None, None] if score is None else [score.value, _or_none(score.stderr)]
        rows.append((task, metric, *numbers))
    columns = [f"{model.title}{part}" for model in models for part in ("", " stderr")]
    return Table("across-tasks", "The full models on each task", ("task", "metric", *columns), tuple(rows))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value

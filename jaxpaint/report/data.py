"""What a report is made from: a results store as studies of arrays, a column for each plan."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import entry
from jaxpaint.results import document_texts, reading
from jaxpaint.results.damage import reading as opened
from jaxpaint.results.document_texts import DocumentText
from jaxpaint.results.flow import FlowRow, stored_flows
from jaxpaint.results.group_scores import GroupScores, all_scores, parts
from jaxpaint.results.groups import counted
from jaxpaint.results.latency import Latency, latencies
from jaxpaint.results.provenance import UNKNOWN, Provenance, provenance
from jaxpaint.results.reading import NOT_FINITE, Analysis, ModelRow, StoredPlan, TaskRow, VariantRow
from jaxpaint.results.search import SearchResult, stored_searches
from jaxpaint.results.story import StoryRow, stored_stories

STANDARD_ITERATIONS = 3  # of looped-parallel, in the paper


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric under every plan P: values and their standard errors, float64 [P], NaN where there is none."""

    value: np.ndarray
    stderr: np.ndarray
    higher_is_better: bool


@dataclass(frozen=True, eq=False)
class Part:
    """A task of a group: its documents' scores in the group's main metric, float64 [P, documents], NaN where there is
    none; `times` is how often the group has it.
    """

    task: TaskRow
    scores: np.ndarray
    times: int


@dataclass(frozen=True, eq=False)
class Parts:
    """What a score is the mean of: tasks' means, weighted by their documents or each the same."""

    parts: tuple[Part, ...]
    by_size: bool
    tasks: frozenset[int]
    """Ids of all members, those without the metric too."""

    def shares(self, sizes: np.ndarray) -> np.ndarray:
        """The weight of each part under each plan, of how many documents each has: [parts, P], NaN where one has none.

        They add up to 1.
        """
        weights = np.array([[part.times] for part in self.parts]) * (sizes if self.by_size else np.ones_like(sizes))
        weights = np.where((sizes == 0).any(axis=0), np.nan, weights)
        return weights / weights.sum(axis=0)


@dataclass(frozen=True, eq=False)
class TaskResults:
    """One task, or a group of tasks, under every plan P of a study.

    `status` is None where the study has no such cell. `documents` counts those the metrics cover, 0 where there are
    none. `per_document` is the main metric, float64 [P, documents], NaN where a plan was not scored on a document;
    `numbers` are those documents' numbers in the task, from 0; `texts` what people see of them, where the store has it.
    """

    task: TaskRow
    status: tuple[str | None, ...]
    documents: np.ndarray
    seconds: np.ndarray
    metrics: Mapping[str, Measured]
    per_document: np.ndarray
    numbers: np.ndarray
    texts: Mapping[int, DocumentText]
    group: Parts | None = None
    """Of a group of tasks, whose documents are its members'."""

    @property
    def main(self) -> Measured:
        return self.metrics[self.task.metric]

    @property
    def parts(self) -> Parts:
        """What the main metric is the mean of: of a task, itself."""
        if self.group is not None:
            return self.group
        return Parts((Part(self.task, self.per_document, 1),), True, frozenset({self.task.id}))


@dataclass(frozen=True)
class PlanLatency:
    """How long a plan took; `column` is its place among the study's plans."""

    column: int
    latency: Latency


@dataclass(frozen=True, eq=False)
class Study:
    """One model's results under one BOS setting: a column per plan, and the same columns in every task."""

    model: ModelRow
    bos: str
    plans: tuple[StoredPlan, ...]
    variants: tuple[VariantRow, ...]
    results: tuple[TaskResults, ...]
    analyses: tuple[Analysis, ...]
    latencies: tuple[PlanLatency, ...] = ()
    flows: tuple[FlowRow, ...] = ()
    stories: tuple[StoryRow, ...] = ()
    searches: tuple[SearchResult, ...] = ()
    provenance: Provenance = UNKNOWN
    of_groups: tuple[TaskResults, ...] = ()

    @cached_property
    def groups(self) -> tuple[TaskResults, ...]:
        """Those of groups all of whose tasks are in `results`."""
        there = {result.task.id for result in self.results}
        return tuple(each for each in self.of_groups if each.parts.tasks <= there)

    @cached_property
    def counted(self) -> tuple[TaskResults, ...]:
        """What counts where tasks are averaged or judged: groups in place of their tasks, and the other tasks."""
        tasks = {each.task.id: each.parts.tasks for each in self.groups}
        chosen = counted(tasks)
        members = frozenset[int]().union(*(tasks[group] for group in chosen))
        groups = (each for each in self.groups if each.task.id in chosen)
        return (*groups, *(result for result in self.results if result.task.id not in members))

    @cached_property
    def shown(self) -> tuple[TaskResults, ...]:
        """Those that count, then the groups and tasks within them."""
        return tuple(dict.fromkeys((*self.counted, *self.groups, *self.results)))

    @cached_property
    def full(self) -> int | None:
        """The column of the full model, every layer in order; None where it has no results."""
        text = str(Plan.of(range(self.model.num_layers)))
        return next((column for column, plan in enumerate(self.plans) if plan.text == text), None)

    @cached_property
    def iterations(self) -> tuple[int, ...]:
        """The iterations that looped-parallel ran with; 1 also where `parallel` ran."""
        found = {v.iterations for v in self.variants if v.strategy == "looped-parallel" and v.iterations}
        return tuple(sorted(found | {1 for v in self.variants if v.strategy == "parallel"}))

    @cached_property
    def times(self) -> tuple[int, ...]:
        """The times that block-repeat ran its block."""
        return tuple(sorted({v.times for v in self.variants if v.strategy == "block-repeat" and v.times}))

    @cached_property
    def looped(self) -> int | None:
        """The iterations that stand for looped-parallel where one number is wanted: 3, or the least above 1."""
        several = [count for count in self.iterations if count > 1]
        return STANDARD_ITERATIONS if STANDARD_ITERATIONS in several else several[0] if several else None

    @property
    def has_full_model(self) -> bool:
        """Whether the full model has a score on any task, its hidden states were analysed, or facts asked of it."""
        column = self.full
        scored = column is not None and any(not np.isnan(result.main.value[column]) for result in self.results)
        asked = column is not None and any(row.plan == self.plans[column].id for row in self.flows)
        return scored or asked or any(analysis.column == column for analysis in self.analyses)

    def words(self, strategy: str) -> str:
        """A strategy in words, with the iterations that stand for looped-parallel."""
        return entry(strategy).words + (f" ×{self.looped}" if strategy == "looped-parallel" else "")

    def full_score(self, result: TaskResults | None) -> float:
        """The full model's score on a task, NaN where it has none."""
        return float("nan") if result is None or self.full is None else float(result.main.value[self.full])

    def has_cell(self, column: int) -> bool:
        """Whether a plan was asked for on any task, and not only analysed."""
        return any(result.status[column] is not None for result in self.results)

    def statuses(self) -> Counter[str]:
        """How many cells have which status."""
        return Counter(status for result in self.results for status in result.status if status)


def read_store(path: Path) -> tuple[Study, ...]:
    """Every study in a results store: one per model and BOS setting, in the order they were begun.

    Raises:
        UserError: as `results.damage.reading`, or the store holds no results.
    """
    with opened(path) as connection:
        models, found = reading.models(connection), reading.studies(connection)
        firsts = dict(reversed(found))
        if not found:
            raise UserError(f"{path} holds no results yet; run `jaxpaint study --store {path} ...` first")
        return tuple(_study(connection, models[model], bos, firsts[model] == bos) for model, bos in found)


def _study(connection: sqlite3.Connection, model: ModelRow, bos: str, with_flows: bool) -> Study:
    """With the model's flows, which have a BOS setting of their own and are one study's alone."""
    plans = reading.plans(connection, model.id, bos)
    columns = {plan.id: column for column, plan in enumerate(plans)}
    tasks = reading.tasks(connection, model.id, bos)
    groups = all_scores(connection, model.id, bos)
    rows = reading.named([scores.task for scores in groups])
    return Study(
        model,
        bos,
        tuple(plans),
        tuple(reading.variants(connection, model.num_layers, columns)),
        tuple(_task_results(connection, task, model.id, columns) for task in tasks),
        tuple(reading.analyses(connection, model.id, columns)),
        tuple(
            PlanLatency(columns[row.plan], row.latency)
            for row in latencies(connection, model.id)
            if row.plan in columns
        ),
        tuple(stored_flows(connection, model.id)) if with_flows else (),
        tuple(stored_stories(connection, model.id)) if with_flows else (),
        tuple(stored_searches(connection, model.id)) if with_flows else (),
        provenance(connection, model.id),
        tuple(_group_results(connection, *each, tasks, columns) for each in zip(rows, groups, strict=True)),
    )


def _group_results(
    connection: sqlite3.Connection,
    row: TaskRow,
    scores: GroupScores,
    tasks: Sequence[TaskRow],
    columns: Mapping[int, int],
) -> TaskResults:
    """Of the plans that have a column: others have no cell of the study."""
    status: list[str | None] = [None] * len(columns)
    documents, seconds = np.zeros(len(columns), np.int64), np.zeros(len(columns))
    rows = []
    for cell in scores.cells:
        column = columns[cell.plan]
        status[column], documents[column], seconds[column] = cell.status, cell.documents or 0, cell.seconds
        rows += [
            (each.metric, cell.plan, each.value, each.stderr, each.higher_is_better is not False)
            for each in cell.metrics
            if each.filter == scores.filter and cell.status != NOT_FINITE
        ]
    found, model = [], scores.cells[0].model
    for task, times in parts(connection, scores).items():
        own = next(each for each in tasks if each.id == task)
        asked = replace(own, metric=scores.metric, filter=scores.filter)
        found.append(Part(own, _per_document(connection, asked, model, columns)[0], times))
    members = Parts(tuple(found), scores.stored.group.by_size(scores.metric), frozenset(scores.stored.tasks))
    nothing = np.full((len(columns), 0), np.nan)
    numbers = np.array([], np.int64)
    measured = _measured(row, rows, columns)
    return TaskResults(row, tuple(status), documents, seconds, measured, nothing, numbers, {}, members)


def _task_results(connection: sqlite3.Connection, task: TaskRow, model: int, columns: Mapping[int, int]) -> TaskResults:
    status: list[str | None] = [None] * len(columns)
    documents, seconds = np.zeros(len(columns), np.int64), np.zeros(len(columns))
    for plan, state, count, duration in reading.cells(connection, model, task.id):
        status[columns[plan]], documents[columns[plan]], seconds[columns[plan]] = state, count, duration
    metrics = _measured(task, reading.metrics(connection, model, task), columns)
    scores, numbers = _per_document(connection, task, model, columns)
    texts = document_texts.stored(connection, task.id)
    return TaskResults(task, tuple(status), documents, seconds, metrics, scores, numbers, texts)


def _measured(
    task: TaskRow, rows: Iterable[tuple[str, int, float | None, float | None, bool]], columns: Mapping[int, int]
) -> dict[str, Measured]:
    """Of rows as `reading.metrics` has them."""
    nothing = np.full(len(columns), np.nan)
    found = {task.metric: Measured(nothing, nothing, True)}
    for metric, plan, value, stderr, better in rows:
        if metric not in found or found[metric].higher_is_better != better or found[metric].value is nothing:
            found[metric] = Measured(nothing.copy(), nothing.copy(), better)
        found[metric].value[columns[plan]] = np.nan if value is None else value
        found[metric].stderr[columns[plan]] = np.nan if stderr is None else stderr
    return found


def _per_document(
    connection: sqlite3.Connection, task: TaskRow, model: int, columns: Mapping[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    found = reading.document_scores(connection, model, task)
    plans, documents, values = np.array(found, np.float64).reshape(-1, 3).T
    numbers, places = np.unique(documents, return_inverse=True)
    scores = np.full((len(columns), len(numbers)), np.nan)
    scores[[columns[plan] for plan in plans.tolist()], places] = values
    return scores, numbers.astype(np.int64)


def model_facts(model: ModelRow) -> tuple[tuple[str, str], ...]:
    """What a page says of every model, by name."""
    return (
        ("Model", f"{model.source or model.name}{f', revision {model.revision}' if model.revision else ''}"),
        ("Layers", str(model.num_layers)),
        ("Computed in", model.dtype),
    )

"""What a report is made from: a results store read into frozen values, with plain SELECTs."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.results.kinds import main_filter
from jaxpaint.results.schema import reading

FINISHED, NOT_FINITE, RUNNING = "finished", "not finite", "running"
FINETUNED = "finetuned"  # among a task's settings, as `jaxpaint.study.finetune` stores how the model was trained


@dataclass(frozen=True)
class ModelRow:
    """A model of the store; `name` tells it from the store's others."""

    id: int
    name: str
    fingerprint: str
    dtype: str
    source: str | None
    revision: str | None
    num_layers: int


@dataclass(frozen=True)
class TaskRow:
    """A task as it was asked; `name` tells it from the study's others, `benchmark` is lm-eval's name for it.

    `metric` is what figures show, under lm-eval's `filter`. `chance` is the score of guessing, None where unknown.
    """

    id: int
    name: str
    benchmark: str
    version: str
    num_fewshot: int
    bos: str
    settings: str
    chance: float | None
    metric: str
    filter: str

    @property
    def kv(self) -> str | None:
        """What a cache held while the task's texts were written, exact or mean; None where none were."""
        return json.loads(self.settings).get("kv")


@dataclass(frozen=True)
class PlanRow:
    """A plan that ran; `cost` in layer applications, `depth` in layers on the longest chain."""

    id: int
    text: str
    cost: int
    depth: int


@dataclass(frozen=True)
class VariantRow:
    """What a plan stands for: a strategy and its options. `column` is the plan's place in `Study.plans`."""

    column: int
    strategy: str
    label: str
    start: int | None
    seed: int | None
    iterations: int | None
    times: int | None
    layer: int | None
    affected: int | None


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric under every plan P: values and their standard errors, float64 [P], NaN where there is none."""

    value: np.ndarray
    stderr: np.ndarray
    higher_is_better: bool


@dataclass(frozen=True, eq=False)
class TaskResults:
    """One task under every plan P of a study.

    `status` is None where the study has no such cell. `documents` counts those the metrics cover, 0 where there are
    none. `per_document` is the main metric, float64 [P, documents], NaN where a plan was not scored on a document.
    """

    task: TaskRow
    status: tuple[str | None, ...]
    documents: np.ndarray
    seconds: np.ndarray
    metrics: Mapping[str, Measured]
    per_document: np.ndarray

    @property
    def main(self) -> Measured:
        return self.metrics[self.task.metric]


@dataclass(frozen=True)
class Analysis:
    """A measurement of hidden states: `value` is nested lists of numbers, `settings` say what texts it was made on."""

    column: int
    name: str
    settings: Mapping[str, Any]
    value: Any


@dataclass(frozen=True, eq=False)
class Study:
    """One model's results under one BOS setting: a column per plan, and the same columns in every task."""

    model: ModelRow
    bos: str
    plans: tuple[PlanRow, ...]
    variants: tuple[VariantRow, ...]
    results: tuple[TaskResults, ...]
    analyses: tuple[Analysis, ...]

    @cached_property
    def full(self) -> int | None:
        """The column of the full model, every layer in order; None where it has no results."""
        text = str(Plan.of(range(self.model.num_layers)))
        return next((column for column, plan in enumerate(self.plans) if plan.text == text), None)

    @property
    def has_full_model(self) -> bool:
        """Whether the full model has a score on any task, or its hidden states were analysed."""
        column = self.full
        scored = column is not None and any(not np.isnan(result.main.value[column]) for result in self.results)
        return scored or any(analysis.column == column for analysis in self.analyses)

    def has_cell(self, column: int) -> bool:
        """Whether a plan was asked for on any task, and not only analysed."""
        return any(result.status[column] is not None for result in self.results)

    def statuses(self) -> Counter[str]:
        """How many cells have which status."""
        return Counter(status for result in self.results for status in result.status if status)


def read_store(path: Path) -> tuple[Study, ...]:
    """Every study in a results store: one per model and BOS setting, in the order they were begun.

    Raises:
        UserError: as `results_schema.reading`, or the store holds no results.
    """
    with reading(path) as connection:
        names = _model_names(connection)
        # By the cells and not by the tables of models and tasks, which also hold what was only planned.
        pairs = connection.execute(
            "SELECT model, bos FROM cells JOIN tasks ON tasks.id = cells.task GROUP BY 1, 2 ORDER BY min(cells.id)"
        ).fetchall()
        with_analyses = {model for (model,) in connection.execute("SELECT DISTINCT model FROM analyses")}
        pairs += [(model, "") for model in sorted(with_analyses - {model for model, _ in pairs})]
        if not pairs:
            raise UserError(f"{path} holds no results yet; run `jaxpaint study --store {path} ...` first")
        return tuple(_study(connection, names, model, bos) for model, bos in pairs)


def _model_names(connection: sqlite3.Connection) -> dict[int, ModelRow]:
    rows = connection.execute("SELECT id, fingerprint, dtype, source, revision, num_layers FROM models").fetchall()
    models = [
        ModelRow(row[0], PurePath(row[3]).name if row[3] else row[1][:12], *row[1:])  # a hub id or a folder
        for row in rows
    ]
    for tell in (lambda model: model.dtype, lambda model: model.fingerprint[:8], lambda model: f"#{model.id}"):
        count = Counter(model.name for model in models)
        models = [
            replace(model, name=f"{model.name} {tell(model)}") if count[model.name] > 1 else model for model in models
        ]
    return {model.id: model for model in models}


def _study(connection: sqlite3.Connection, models: Mapping[int, ModelRow], model: int, bos: str) -> Study:
    plans = [
        PlanRow(*row)
        for row in connection.execute(
            "SELECT id, text, cost, depth FROM plans WHERE id IN (SELECT plan FROM cells JOIN tasks ON tasks.id = task"
            " WHERE model = ? AND bos = ? UNION SELECT plan FROM analyses WHERE model = ?) ORDER BY id",
            (model, bos, model),
        )
    ]
    columns = {plan.id: column for column, plan in enumerate(plans)}
    variants = tuple(
        VariantRow(columns[plan], *rest)
        for plan, *rest in connection.execute(
            "SELECT plan, strategy, label, start, seed, iterations, times, layer, affected FROM variants"
            " WHERE num_layers = ? ORDER BY id",
            (models[model].num_layers,),
        )
        if plan in columns
    )
    results = tuple(_task_results(connection, task, model, columns) for task in _tasks(connection, model, bos))
    analyses = tuple(
        Analysis(columns[plan], name, json.loads(settings), json.loads(value))
        for plan, name, settings, value in connection.execute(
            "SELECT plan, name, settings, value FROM analyses WHERE model = ?", (model,)
        )
    )
    return Study(models[model], bos, tuple(plans), variants, results, analyses)


def _tasks(connection: sqlite3.Connection, model: int, bos: str) -> list[TaskRow]:
    rows = connection.execute(
        "SELECT id, name, name, version, num_fewshot, bos, settings, chance, main_metric FROM tasks"
        " WHERE bos = ? AND id IN (SELECT task FROM cells WHERE model = ?) ORDER BY name, num_fewshot, id",
        (bos, model),
    ).fetchall()
    tasks = [TaskRow(*(*row, main_filter(connection, row[0], row[-1]))) for row in rows]
    shots, caches = defaultdict(set), defaultdict(set)
    for task in tasks:
        shots[task.benchmark].add(task.num_fewshot)
        caches[task.benchmark].add(task.kv)
    named = [replace(task, name=_named(task, shots[task.benchmark], caches[task.benchmark])) for task in tasks]
    count = Counter(task.name for task in named)
    return [replace(task, name=f"{task.name} #{task.id}") if count[task.name] > 1 else task for task in named]


def _named(task: TaskRow, shots: Collection[int], caches: Collection[str | None]) -> str:
    """A benchmark with what tells it from the others of its name."""
    parts = [task.benchmark]
    parts += [f"{task.num_fewshot}-shot"] if len(shots) > 1 else []
    parts += [f"kv={task.kv}"] if len(caches) > 1 and task.kv else []
    # The task's own name stays what it is where the same model was fine-tuned on it.
    return " ".join(parts) + (", fine-tuned" if FINETUNED in json.loads(task.settings) else "")


def _task_results(connection: sqlite3.Connection, task: TaskRow, model: int, columns: Mapping[int, int]) -> TaskResults:
    cells = connection.execute(
        "SELECT id, plan, status, ifnull(documents, 0), seconds FROM cells WHERE model = ? AND task = ?",
        (model, task.id),
    ).fetchall()
    status: list[str | None] = [None] * len(columns)
    documents, seconds = np.zeros(len(columns), np.int64), np.zeros(len(columns))
    for _, plan, state, count, duration in cells:
        status[columns[plan]], documents[columns[plan]], seconds[columns[plan]] = state, count, duration
    per_document = _per_document(connection, task, {cell: columns[plan] for cell, plan, *_ in cells}, len(columns))
    metrics = _metrics(connection, task, model, columns)
    return TaskResults(task, tuple(status), documents, seconds, metrics, per_document)


def _metrics(
    connection: sqlite3.Connection, task: TaskRow, model: int, columns: Mapping[int, int]
) -> dict[str, Measured]:
    nothing = np.full(len(columns), np.nan)
    found = {task.metric: Measured(nothing, nothing, True)}
    for metric, plan, value, stderr, higher in connection.execute(
        "SELECT metric, plan, value, stderr, higher_is_better FROM cells JOIN metrics ON cell = id"
        " WHERE model = ? AND task = ? AND filter = ? AND status <> ?",
        (model, task.id, task.filter, NOT_FINITE),
    ):
        better = higher is None or bool(higher)
        if metric not in found or found[metric].higher_is_better != better or found[metric].value is nothing:
            found[metric] = Measured(nothing.copy(), nothing.copy(), better)
        found[metric].value[columns[plan]] = np.nan if value is None else value
        found[metric].stderr[columns[plan]] = np.nan if stderr is None else stderr
    return found


def _per_document(
    connection: sqlite3.Connection, task: TaskRow, cells: Mapping[int, int], num_plans: int
) -> np.ndarray:
    rows: dict[int, np.ndarray] = {}
    for cell in cells:
        found = connection.execute(
            "SELECT document, value FROM document_scores JOIN cells ON cells.id = cell"
            " WHERE cell = ? AND metric = ? AND filter = ? AND value IS NOT NULL AND status <> ?",
            (cell, task.metric, task.filter, NOT_FINITE),
        ).fetchall()
        rows[cell] = np.array(found, np.float64).reshape(-1, 2)
    numbers = np.unique(np.concatenate([pairs[:, 0] for pairs in rows.values()]))
    scores = np.full((num_plans, len(numbers)), np.nan)
    for cell, pairs in rows.items():
        scores[cells[cell], np.searchsorted(numbers, pairs[:, 0])] = pairs[:, 1]
    return scores

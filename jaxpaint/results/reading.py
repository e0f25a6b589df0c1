"""What a results store holds, read into frozen values. Every function here runs inside its caller's `reading`."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import PurePath
from typing import Any, TypeVar

from jaxpaint.results import kinds
from jaxpaint.results.keys import StrategyOptions
from jaxpaint.results.schema import canonical_json

NOT_FINITE, RUNNING = "not finite", "running"
_BESIDE = ", ".join("?" * len(kinds.BESIDE))


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
    """A task as it was asked, or a group of tasks; `name` tells it from the study's others, `benchmark` is lm-eval's
    name for it.

    `metric` is what figures show, under lm-eval's `filter`. `chance` is the score of guessing, None where unknown, and
    `num_fewshot` None of a group whose tasks have several.
    """

    id: int
    name: str
    benchmark: str
    version: str
    num_fewshot: int | None
    bos: str
    settings: str
    chance: float | None
    metric: str
    filter: str

    @property
    def kv(self) -> str | None:
        """What a cache held while the task's texts were written, exact or mean; None where none were."""
        return kinds.kv(self.settings)


@dataclass(frozen=True)
class StoredPlan:
    """A plan that ran; `cost` in layer applications, `depth` in layers on the longest chain."""

    id: int
    text: str
    cost: int
    depth: int


@dataclass(frozen=True)
class VariantRow(StrategyOptions):
    """What a plan stands for: a strategy and its options. `column` is the plan's place among a study's plans."""

    column: int
    strategy: str
    label: str


@dataclass(frozen=True)
class Analysis:
    """A measurement of hidden states: `value` is nested lists of numbers, `settings` say what texts it was made on."""

    column: int
    name: str
    settings: Mapping[str, Any]
    value: Any


def studies(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """The models and BOS settings of a store's results, in the order they were begun; "" for a model's analyses alone.

    By the cells and not by the tables of models and tasks, which also hold what was only planned.
    """
    pairs = connection.execute(
        "SELECT model, bos FROM cells JOIN tasks ON tasks.id = cells.task GROUP BY 1, 2 ORDER BY min(cells.id)"
    ).fetchall()
    query = f"SELECT DISTINCT model FROM analyses WHERE name NOT IN ({_BESIDE})"
    analysed = {model for (model,) in connection.execute(query, kinds.BESIDE)}
    return pairs + [(model, "") for model in sorted(analysed - {model for model, _ in pairs})]


def models(connection: sqlite3.Connection) -> dict[int, ModelRow]:
    """By id."""
    rows = connection.execute("SELECT id, fingerprint, dtype, source, revision, num_layers FROM models")
    found = [
        ModelRow(row[0], PurePath(row[3]).name if row[3] else row[1][:12], *row[1:])  # a hub id or a folder
        for row in rows
    ]
    for tell in (lambda model: model.dtype, lambda model: model.fingerprint[:8], lambda model: f"#{model.id}"):
        found = _told_apart(found, tell)
    return {model.id: model for model in found}


def plans(connection: sqlite3.Connection, model: int, bos: str) -> list[StoredPlan]:
    """Those that a model ran under a BOS setting, or that were analysed."""
    rows = connection.execute(
        "SELECT id, text, cost, depth FROM plans WHERE id IN (SELECT plan FROM cells JOIN tasks ON tasks.id = task"
        f" WHERE model = ? AND bos = ? UNION SELECT plan FROM analyses WHERE model = ? AND name NOT IN ({_BESIDE}))"
        " ORDER BY id",
        (model, bos, model, *kinds.BESIDE),
    )
    return [StoredPlan(*row) for row in rows]


def variants(connection: sqlite3.Connection, num_layers: int, columns: Mapping[int, int]) -> Iterator[VariantRow]:
    """What the plans stand for in a model of so many layers; `columns` are the plans' places by id."""
    options = [field.name for field in fields(StrategyOptions)]
    names = ", ".join(options)
    rows = connection.execute(
        f"SELECT plan, strategy, label, {names} FROM variants WHERE num_layers = ? ORDER BY id", (num_layers,)
    )
    for plan, strategy, label, *values in rows:
        if plan in columns:
            yield VariantRow(columns[plan], strategy, label, **dict(zip(options, values, strict=True)))


def tasks(connection: sqlite3.Connection, model: int, bos: str) -> list[TaskRow]:
    """Those that a model was scored on under a BOS setting."""
    rows = connection.execute(
        "SELECT id, name, name, version, num_fewshot, bos, settings, chance, main_metric FROM tasks"
        " WHERE bos = ? AND id IN (SELECT task FROM cells WHERE model = ?) ORDER BY name, num_fewshot, id",
        (bos, model),
    ).fetchall()
    return named([TaskRow(*(*row, kinds.main_filter(connection, row[0], row[-1]))) for row in rows])


def named(found: list[TaskRow]) -> list[TaskRow]:
    """The same with names that tell them apart."""
    return _told_apart([replace(task, name=_named(task, found)) for task in found], lambda task: f"#{task.id}")


def _named(task: TaskRow, found: list[TaskRow]) -> str:
    """A benchmark with what tells it from the others of its name."""
    alike = [other for other in found if other.benchmark == task.benchmark]
    parts = [task.benchmark]
    if len({other.num_fewshot for other in alike}) > 1:
        parts.append("several shots" if task.num_fewshot is None else f"{task.num_fewshot}-shot")
    if task.kv and len({other.kv for other in alike}) > 1:
        parts.append(f"kv={task.kv}")
    # The task's own name stays what it is where the same model was fine-tuned on it.
    return " ".join(parts) + (", fine-tuned" if kinds.is_finetuned(task.settings) else "")


Row = TypeVar("Row", ModelRow, TaskRow)


def _told_apart(rows: list[Row], tell: Callable[[Row], str]) -> list[Row]:
    """With one more word for those of the same name."""
    count = Counter(row.name for row in rows)
    return [replace(row, name=f"{row.name} {tell(row)}") if count[row.name] > 1 else row for row in rows]


def cells(connection: sqlite3.Connection, model: int, task: int) -> list[tuple[int, str, int, float]]:
    """(plan, status, documents that the metrics cover, seconds)."""
    query = "SELECT plan, status, ifnull(documents, 0), seconds FROM cells WHERE (model, task) = (?, ?)"
    return connection.execute(query, (model, task)).fetchall()


def metrics(
    connection: sqlite3.Connection, model: int, task: TaskRow
) -> Iterator[tuple[str, int, float | None, float | None, bool]]:
    """(metric, plan, value, standard error, whether higher is better), without cells that are not finite."""
    rows = connection.execute(
        "SELECT metric, plan, value, stderr, higher_is_better FROM cells JOIN metrics ON cell = id"
        " WHERE model = ? AND task = ? AND filter = ? AND status <> ?",
        (model, task.id, task.filter, NOT_FINITE),
    )
    return (
        (metric, plan, value, stderr, higher is None or bool(higher)) for metric, plan, value, stderr, higher in rows
    )


def document_scores(connection: sqlite3.Connection, model: int, task: TaskRow) -> list[tuple[int, int, float]]:
    """(plan, document, main metric), without those that are not known, and without cells that are not finite."""
    return connection.execute(
        "SELECT plan, document, value FROM cells CROSS JOIN document_scores ON cell = id"
        " WHERE model = ? AND task = ? AND metric = ? AND filter = ? AND value IS NOT NULL AND status <> ?",
        (model, task.id, task.metric, task.filter, NOT_FINITE),
    ).fetchall()


def analysed(
    connection: sqlite3.Connection, fingerprint: str, dtype: str, name: str, settings: Mapping[str, Any]
) -> set[str]:
    """The plans, as texts, that have an analysis of these settings."""
    query = (
        "SELECT text FROM analyses JOIN plans ON plans.id = plan JOIN models ON models.id = model"
        " WHERE (fingerprint, dtype, name, settings) = (?, ?, ?, ?)"
    )
    return {text for (text,) in connection.execute(query, (fingerprint, dtype, name, canonical_json(settings)))}


def stored_analysis(
    connection: sqlite3.Connection, fingerprint: str, dtype: str, plan: str, name: str, settings: Mapping[str, Any]
) -> Any | None:
    """The value of one analysis of a plan, by its text; None if there is none."""
    query = (
        "SELECT value FROM analyses JOIN plans ON plans.id = plan JOIN models ON models.id = model"
        " WHERE (fingerprint, dtype, text, name, settings) = (?, ?, ?, ?, ?)"
    )
    row = connection.execute(query, (fingerprint, dtype, plan, name, canonical_json(settings))).fetchone()
    return None if row is None else json.loads(row[0])


def analyses(connection: sqlite3.Connection, model: int, columns: Mapping[int, int]) -> Iterator[Analysis]:
    """Those of a model's plans, but for those that modules of their own read (`kinds.APART`)."""
    marks = ", ".join("?" * len(kinds.APART))
    query = f"SELECT plan, name, settings, value FROM analyses WHERE model = ? AND name NOT IN ({marks})"
    rows = connection.execute(query, (model, *kinds.APART))
    return (
        Analysis(columns[plan], name, json.loads(settings), json.loads(value)) for plan, name, settings, value in rows
    )

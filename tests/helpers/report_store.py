"""Results stores with made-up scores, for tests of reports: every document's score follows from a chosen accuracy."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpaint.plans.strategies import Variant
from jaxpaint.results.document_texts import DocumentText
from jaxpaint.results.schema import connect
from jaxpaint.results.store import Store


@dataclass(frozen=True)
class FakeTask:
    """A task of the store; `accuracy` gives a variant's, None for logits that are not finite."""

    name: str
    accuracy: Callable[[Variant], float | None]
    chance: float | None = 0.0
    metric: str = "acc"
    documents: int = 100
    bos: str = "off"
    num_fewshot: int = 0
    exact: bool = True
    kv: str | None = None


@dataclass(frozen=True)
class FakeModel:
    """A model of the store. Without `exact` documents are drawn, the same difficulty of each under every plan."""

    variants: Sequence[Variant]
    tasks: Sequence[FakeTask]
    num_layers: int
    source: str = "example/Tiny-Model"
    fingerprint: str = "f" * 64


def write_store(path: Path, *models: FakeModel) -> Path:
    """A store with the models' cells, all finished or not finite."""
    connection = connect(path, create=True)
    connection.execute("BEGIN")
    for model in models:
        _add_model(connection, model)
    connection.execute("COMMIT")
    connection.close()
    return path


def add_analysis(
    path: Path, variant: Variant, name: str, value: np.ndarray, *, bos: str = "off", samples: int = 100
) -> None:
    """An analysis of the store's first model; `variant` has a cell already."""
    settings = {"task": "lambada_openai", "bos": bos, "samples": samples}
    connection = connect(path, create=False)
    connection.execute(
        "INSERT INTO analyses SELECT 1, id, ?, ?, ? FROM plans WHERE text = ?",
        (name, json.dumps(settings), json.dumps(value.tolist()), str(variant.plan)),
    )
    connection.close()


def add_texts(path: Path, task: str, texts: Mapping[int, DocumentText]) -> None:
    """What people see of some of a task's documents."""
    with Store.open(path, create=False) as store:
        (found,) = store.connection.execute("SELECT id FROM tasks WHERE name = ?", (task,)).fetchone()
        store.add_document_texts(found, texts.items())


def change(path: Path, *statements: str) -> None:
    """Runs SQL on a store."""
    connection = connect(path, create=False)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _add_model(connection: sqlite3.Connection, model: FakeModel) -> None:
    cursor = connection.execute(
        "INSERT INTO models (fingerprint, dtype, source, revision, num_layers) VALUES (?, 'float32', ?, 'main', ?)",
        (model.fingerprint, model.source, model.num_layers),
    )
    plans = [_add_variant(connection, variant) for variant in model.variants]
    for task in model.tasks:
        (task_id,) = connection.execute(
            "INSERT INTO tasks (name, version, num_fewshot, bos, settings, chance, main_metric)"
            " VALUES (?, '1', ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = version RETURNING id",
            (
                task.name,
                task.num_fewshot,
                task.bos,
                json.dumps({"kv": task.kv} if task.kv else {}),
                task.chance,
                task.metric,
            ),
        ).fetchone()
        _add_cells(connection, cursor.lastrowid or 0, task_id, task, zip(model.variants, plans, strict=True))


def _add_variant(connection: sqlite3.Connection, variant: Variant) -> int:
    plan = variant.plan
    connection.execute(
        "INSERT OR IGNORE INTO plans (text, cost, depth) VALUES (?, ?, ?)", (str(plan), plan.cost, plan.depth)
    )
    (row,) = connection.execute("SELECT id FROM plans WHERE text = ?", (str(plan),)).fetchone()
    connection.execute(
        "INSERT OR IGNORE INTO variants (plan, strategy, num_layers, label, start, seed, iterations, times, layer,"
        " affected) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row, variant.strategy, variant.num_layers, variant.label, variant.start, variant.seed, variant.iterations,
         variant.times, variant.layer, variant.affected),
    )  # fmt: skip
    return row


def _add_cells(
    connection: sqlite3.Connection, model: int, task_id: int, task: FakeTask, variants: Iterable[tuple[Variant, int]]
) -> None:
    difficulty = np.random.default_rng(0).random(task.documents)
    if task.exact:
        difficulty = (np.arange(task.documents) + 0.5) / task.documents
    seen = set()
    for variant, plan in variants:
        if plan in seen:
            continue
        seen.add(plan)
        accuracy = task.accuracy(variant)
        cell = connection.execute(
            "INSERT INTO cells (model, task, plan, documents, status, seconds) VALUES (?, ?, ?, ?, ?, 1.5)",
            (model, task_id, plan, task.documents, "not finite" if accuracy is None else "finished"),
        ).lastrowid
        if accuracy is None:
            connection.execute("INSERT INTO metrics VALUES (?, ?, 'none', NULL, NULL, 1)", (cell, task.metric))
            continue
        right = (difficulty < accuracy).astype(float)
        if not task.exact:  # documents do not all fall in order of difficulty
            noise = np.random.default_rng(plan).random(task.documents) < 0.3
            right[noise] = np.random.default_rng(plan + 1).random(noise.sum()) < accuracy
        connection.execute(
            "INSERT INTO metrics VALUES (?, ?, 'none', ?, ?, 1)",
            (cell, task.metric, right.mean(), right.std(ddof=1) / np.sqrt(task.documents)),
        )
        connection.executemany(
            "INSERT INTO document_scores VALUES (?, ?, ?, 'none', ?)",
            [(cell, document, task.metric, value) for document, value in enumerate(right.tolist())],
        )

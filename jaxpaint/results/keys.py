"""What a results store's ids stand for: models, tasks, requests, plans, cells. Each is inserted or looked up by what
makes it itself. Every function here runs inside its caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.results import checksums
from jaxpaint.results.schema import canonical_json, one


@dataclass(frozen=True, kw_only=True)
class StrategyOptions:
    """What a strategy made a plan with, None where it does not take it, and how many layers it changes."""

    start: int | None = None
    seed: int | None = None
    iterations: int | None = None
    times: int | None = None
    layer: int | None = None
    affected: int | None = None


@dataclass(frozen=True)
class PlanRow(StrategyOptions):
    """A plan with one strategy that it stands for; a plan of one's own is strategy "custom", labelled by its text."""

    text: str
    cost: float
    depth: float
    strategy: str
    num_layers: int
    label: str


def row_id(connection: sqlite3.Connection, table: str, key: Mapping[str, Any], **others: Any) -> int:
    """The id of the row that `key` makes itself, inserted with `others` if it is new; what it has then is kept."""
    row = {**key, **others}
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    values = tuple(row.values())
    added = connection.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", values)
    if added.rowcount > 0:
        checksums.seal(connection, table, [added.lastrowid or 0])
    same = " AND ".join(f"{column} = ?" for column in key)
    return one(connection, f"SELECT id FROM {table} WHERE {same}", tuple(key.values()))


def request_ids(connection: sqlite3.Connection, task: int, entries: Sequence[tuple[int, int, str]]) -> list[int]:
    """`entries`: (document, number, hash of the text). Raises UserError where the stored text is another."""
    added = connection.executemany(
        "INSERT OR IGNORE INTO requests (task, document, number, content) VALUES (?, ?, ?, ?)",
        ((task, int(document), int(number), content) for document, number, content in entries),
    )
    if added.rowcount > 0:
        checksums.seal(connection, "requests", [task])
    rows = connection.execute("SELECT document, number, id, content FROM requests WHERE task = ?", (task,))
    stored = {(document, number): (id, content) for document, number, id, content in rows}
    ids = []
    for document, number, content in entries:
        id, known = stored[int(document), int(number)]
        if known != content:
            name = one(connection, "SELECT name FROM tasks WHERE id = ?", (task,))
            raise UserError(
                f"task {name}, document {document}, request {number} has another text than the one scored before, "
                "so the data or the prompts have changed; use another store"
            )
        ids.append(id)
    return ids


def plan_id(connection: sqlite3.Connection, row: PlanRow) -> int:
    """Raises UserError where the label stands for another plan."""
    plan = row_id(connection, "plans", {"text": row.text}, cost=row.cost, depth=row.depth)
    names = "strategy, num_layers, label, start, seed, iterations, times, layer, affected"
    added = connection.execute(
        f"INSERT OR IGNORE INTO variants (plan, {names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (plan, *(getattr(row, name) for name in names.split(", "))),
    )
    if added.rowcount > 0:
        checksums.seal(connection, "variants", [plan])
    label = (row.num_layers, row.label)
    known = one(connection, "SELECT plan FROM variants WHERE (num_layers, label) = (?, ?)", label)
    if known != plan:
        other = one(connection, "SELECT text FROM plans WHERE id = ?", (known,))
        raise UserError(
            f"{row.label!r} of {row.num_layers} layers stands for the plan {other} there and not for {row.text}; "
            "use another store"
        )
    return plan


def cell_ids(connection: sqlite3.Connection, model: int, task: int, plans: Sequence[int]) -> list[int]:
    """One per plan."""
    query = "SELECT plan, id FROM cells WHERE (model, task) = (?, ?)"
    before = dict(connection.execute(query, (model, task)).fetchall())
    connection.executemany(
        "INSERT OR IGNORE INTO cells (model, task, plan) VALUES (?, ?, ?)", ((model, task, int(plan)) for plan in plans)
    )
    stored = dict(connection.execute(query, (model, task)).fetchall())
    checksums.seal(connection, "cells", set(stored.values()) - set(before.values()))
    return [stored[int(plan)] for plan in plans]


def analysis(
    connection: sqlite3.Connection, model: int, plan: int, name: str, settings: Mapping[str, Any]
) -> Any | None:
    """What is stored, nested lists; None if there is nothing."""
    row = connection.execute(
        "SELECT value FROM analyses WHERE (model, plan, name, settings) = (?, ?, ?, ?)",
        (model, plan, name, canonical_json(settings)),
    ).fetchone()
    return None if row is None else json.loads(row[0])


def put_analysis(
    connection: sqlite3.Connection, model: int, plan: int, name: str, settings: Mapping[str, Any], value: Any
) -> None:
    """Writes an analysis, nested lists of numbers, in place of an equal one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    connection.execute(
        "INSERT OR REPLACE INTO analyses (model, plan, name, settings, value) VALUES (?, ?, ?, ?, ?)",
        (model, plan, name, canonical_json(settings), text),
    )
    checksums.seal(connection, "analyses", [plan])

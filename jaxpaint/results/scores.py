"""The log-likelihoods and texts of a results store: which are missing, adding them, and the metrics made from them.

Every function here runs inside its caller's transaction.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from jaxpaint.results import checksums
from jaxpaint.results.keys import row_id
from jaxpaint.results.kinds import main_filter
from jaxpaint.results.metrics import MetricRow
from jaxpaint.results.schema import canonical_json, one

DENSE = 8  # reading this many scores in order takes about as long as looking one up


class _Wanted(NamedTuple):
    """The requests R wanted of one task."""

    positions: np.ndarray  # int [R]: where they stand among all that are wanted
    ids: np.ndarray  # int [R]
    span: tuple[int, int]  # the lowest and the highest of the ids
    known: int  # requests that the store has between these


def missing(connection: sqlite3.Connection, cells: Sequence[int], requests: Sequence[int]) -> np.ndarray:
    """As `Store.missing`. Raises LookupError where the store has no such cell or request."""
    absent = np.zeros((len(cells), len(requests)), dtype=np.bool_)
    wanted = _by_task(connection, np.asarray(requests, dtype=np.int64).reshape(-1))
    for row, cell in enumerate(map(int, cells)):
        found = connection.execute("SELECT task FROM cells WHERE id = ?", (cell,)).fetchone()
        if found is None:
            raise LookupError(f"the store has no cell {cell}")
        if found[0] in wanted:
            mine = wanted[found[0]]
            absent[row, mine.positions] = _absent(connection, cell, mine)
    return absent


def _by_task(connection: sqlite3.Connection, ids: np.ndarray) -> dict[int, _Wanted]:
    by_task: dict[int, list[int]] = {}
    query = "SELECT w.key, q.task FROM json_each(?) AS w LEFT JOIN requests AS q ON q.id = w.value"
    for position, task in connection.execute(query, (json.dumps(ids.tolist()),)):
        if task is None:
            raise LookupError(f"the store has no request {ids[position]}")
        by_task.setdefault(task, []).append(position)
    wanted = {}
    for task, positions in by_task.items():
        mine = ids[positions]
        span = (int(mine.min()), int(mine.max()))
        known = one(connection, "SELECT count(*) FROM requests WHERE task = ? AND id BETWEEN ? AND ?", (task, *span))
        wanted[task] = _Wanted(np.array(positions), mine, span, known)
    return wanted


def _absent(connection: sqlite3.Connection, cell: int, wanted: _Wanted) -> np.ndarray:
    """Which of the requests the cell has no score for, bool [R]."""
    if wanted.known <= DENSE * len(wanted.ids):
        within = "FROM scores WHERE cell = ? AND request BETWEEN ? AND ?"
        if one(connection, f"SELECT count(*) {within}", (cell, *wanted.span)) == wanted.known:
            return np.zeros(len(wanted.ids), dtype=np.bool_)
        rows = connection.execute(f"SELECT request {within}", (cell, *wanted.span))
    else:
        rows = connection.execute(
            "SELECT s.request FROM json_each(?) AS w CROSS JOIN scores AS s ON s.cell = ? AND s.request = w.value",
            (json.dumps(wanted.ids.tolist()), cell),
        )
    return ~np.isin(wanted.ids, np.fromiter((request for (request,) in rows), dtype=np.int64))


def add(
    connection: sqlite3.Connection,
    values: Sequence[tuple[int, int, float | None, int, str | None]],
    seconds: Mapping[int, float],
) -> None:
    """Adds (cell, request, log-likelihood, is_greedy, text) where there is no score yet, and what cells took.

    Cells that gain scores are running again.
    """
    ended = connection.execute("SELECT id FROM cells WHERE status <> 'running'")
    reopened = {cell for (cell,) in ended}.intersection(cell for cell, *_ in values)
    insert = "INSERT OR IGNORE INTO scores (cell, request, loglikelihood, is_greedy, text) VALUES (?, ?, ?, ?, ?)"
    added = [row for row in values if connection.execute(insert, row).rowcount > 0]
    checksums.add_scores(connection, added)
    connection.executemany(
        "UPDATE cells SET status = 'running' WHERE id = ?",
        [(cell,) for cell in reopened.intersection(cell for cell, *_ in added)],
    )
    connection.executemany(
        "UPDATE cells SET seconds = seconds + ? WHERE id = ?",
        [(float(spent), int(cell)) for cell, spent in seconds.items()],
    )
    checksums.seal(connection, "cells", {int(cell) for cell in seconds} | {cell for cell, *_ in added})


def read(connection: sqlite3.Connection, columns: str, cell: int, requests: Sequence[int]) -> list[tuple[Any, ...]]:
    """The columns of a cell's scores. Raises LookupError where a request has none."""
    rows = connection.execute(f"SELECT request, {columns} FROM scores WHERE cell = ?", (int(cell),))
    stored = {request: tuple(values) for request, *values in rows}
    absent = [int(request) for request in requests if int(request) not in stored]
    if absent:
        raise LookupError(f"cell {cell} has no score for {len(absent)} requests, the first is {absent[0]}")
    return [stored[int(request)] for request in requests]


def finished(connection: sqlite3.Connection, model: int, task: int, metric: str) -> list[tuple[int, float, int | None]]:
    """As `Store.finished`."""
    query = (
        "SELECT m.cell, m.value, m.higher_is_better FROM metrics AS m JOIN cells AS c ON c.id = m.cell "
        "WHERE c.model = ? AND c.task = ? AND c.status = 'finished' "
        "AND m.metric = ? AND m.filter = ? AND m.value IS NOT NULL"
    )
    return connection.execute(query, (model, task, metric, main_filter(connection, task, metric))).fetchall()


def covered(connection: sqlite3.Connection, fingerprint: str, dtype: str) -> dict[tuple[Any, ...], int]:
    """How many documents a model's metrics cover, by (plan, task, version, num_fewshot, bos, settings as JSON)."""
    query = (
        "SELECT p.text, t.name, t.version, t.num_fewshot, t.bos, t.settings, c.documents FROM cells AS c "
        "JOIN models AS m ON m.id = c.model JOIN tasks AS t ON t.id = c.task JOIN plans AS p ON p.id = c.plan "
        "WHERE c.status != 'running' AND (m.fingerprint, m.dtype) = (?, ?)"
    )
    return {tuple(key): documents for *key, documents in connection.execute(query, (fingerprint, dtype))}


def seconds_per_application(connection: sqlite3.Connection) -> float | None:
    """What runs took for a layer on a position; None where there were none, or of several models."""
    models = one(connection, "SELECT count(*) FROM models")
    executed, seconds = connection.execute("SELECT sum(executed), sum(seconds) FROM runs").fetchone()
    return seconds / executed if models == 1 and executed and seconds else None


def finish(
    connection: sqlite3.Connection,
    cell: int,
    documents: int,
    status: str,
    metrics: Iterable[MetricRow],
    document_scores: Iterable[tuple[int, str, str, float | None]],
    environment: Mapping[str, Any] | None,
) -> None:
    """As `Store.finish`."""
    cell = int(cell)
    for table in ("metrics", "document_scores"):
        connection.execute(f"DELETE FROM {table} WHERE cell = ?", (cell,))
    connection.executemany(
        "INSERT INTO metrics (cell, metric, filter, value, stderr, higher_is_better) VALUES (?, ?, ?, ?, ?, ?)",
        ((cell, row.metric, row.filter, real(row.value), real(row.stderr), row.higher_is_better) for row in metrics),
    )
    connection.executemany(
        "INSERT INTO document_scores (cell, document, metric, filter, value) VALUES (?, ?, ?, ?, ?)",
        ((cell, int(document), metric, filter, real(value)) for document, metric, filter, value in document_scores),
    )
    ran_on = None
    if environment is not None:
        ran_on = row_id(connection, "environments", {"description": canonical_json(environment)})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    connection.execute(
        "UPDATE cells SET documents = ?, status = ?, environment = ?, finished = ? WHERE id = ?",
        (int(documents), status, ran_on, now, cell),
    )
    for part in ("metrics", "document_scores", "cells"):
        checksums.seal(connection, part, [cell])


def real(value: float | None) -> float | None:
    """A number as SQLite takes it; None where it is unknown or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)

"""What lies in a results store, read by plain SQL, to compare studies by."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Scores: TypeAlias = dict[tuple[str, str, int, int], tuple[float | None, bool]]
Metrics: TypeAlias = dict[tuple[str, str, str, str], tuple[float | None, float | None]]

SCORES = """
SELECT p.text, t.name, q.document, q.number, s.loglikelihood, s.is_greedy FROM scores AS s
JOIN cells AS c ON c.id = s.cell JOIN plans AS p ON p.id = c.plan JOIN tasks AS t ON t.id = c.task
JOIN requests AS q ON q.id = s.request
"""
METRICS = """
SELECT p.text, t.name, m.metric, m.filter, m.value, m.stderr FROM metrics AS m
JOIN cells AS c ON c.id = m.cell JOIN plans AS p ON p.id = c.plan JOIN tasks AS t ON t.id = c.task
"""


def rows(store: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def scores(store: Path) -> Scores:
    """By plan, task, document and number of the request: log-likelihood and greedy."""
    found = [tuple(row.values()) for row in rows(store, SCORES)]
    return {row[:4]: (row[4], bool(row[5])) for row in found}


def metrics(store: Path) -> Metrics:
    """By plan, task, metric and filter: value and standard error."""
    found = [tuple(row.values()) for row in rows(store, METRICS)]
    return {row[:4]: row[4:] for row in found}


def statuses(store: Path) -> dict[tuple[str, str], tuple[str, int | None]]:
    """By plan and task: status and documents."""
    query = (
        "SELECT p.text, t.name, c.status, c.documents FROM cells AS c JOIN plans AS p ON p.id = c.plan "
        "JOIN tasks AS t ON t.id = c.task"
    )
    return {tuple(row.values())[:2]: tuple(row.values())[2:] for row in rows(store, query)}  # type: ignore[misc]


def assert_equal_stores(found: Path, expected: Path) -> None:
    """The same scores and metrics, all finished, and nothing claimed any more."""
    ours, theirs = scores(found), scores(expected)
    assert ours.keys() == theirs.keys()
    for key, (value, greedy) in theirs.items():
        assert ours[key] == (pytest.approx(value, abs=1e-4), greedy), key
    assert metrics(found) == {
        key: tuple(number if number is None else pytest.approx(number, rel=1e-3) for number in value)
        for key, value in metrics(expected).items()
    }
    assert statuses(found) == statuses(expected)
    assert not rows(found, "SELECT * FROM claims")

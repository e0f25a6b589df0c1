"""Which of lm-eval's filters a task's figures and tables are of, where an answer is read in several ways."""

from __future__ import annotations

import sqlite3

PREFERRED = ("none", "strict-match")


def main_filter(connection: sqlite3.Connection, task: int, metric: str) -> str:
    """Of the filters that a task's metric is stored under: none, a strict match, or the first in the alphabet."""
    rows = connection.execute(
        "SELECT DISTINCT filter FROM metrics JOIN cells ON cells.id = cell WHERE task = ? AND metric = ?",
        (task, metric),
    )
    names = {name for (name,) in rows}
    return next((name for name in (*PREFERRED, *sorted(names)) if name in names), "none")

"""What a results store holds, in a few numbers."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.results.layout import APPLICATION_ID
from jaxpaint.results.schema import unverified

_HEADER = b"SQLite format 3\0"
_PLACE = slice(68, 72)  # of the application's number in SQLite's header


def overview(file: Path) -> dict[str, Any] | None:
    """{path, models, plans, tasks, results, bytes} of a results store; None of any other file. Checksums are not read.

    A store that is damaged or of another version has no models, and zeros.
    """
    try:
        with file.open("rb") as opened:
            header = opened.read(_PLACE.stop)
        size = file.stat().st_size
    except OSError:
        return None
    if not header.startswith(_HEADER) or int.from_bytes(header[_PLACE], "big") != APPLICATION_ID:
        return None
    known: dict[str, Any] = {"models": [], "plans": 0, "tasks": 0, "results": 0}
    try:
        with unverified(file) as connection:
            known = _counted(connection)
    except UserError:
        pass
    return {"path": str(file), **known, "bytes": size}


def _counted(connection: sqlite3.Connection) -> dict[str, Any]:
    def number(query: str) -> int:
        return int(connection.execute(query).fetchone()[0])

    return {
        "models": [source or "model" for (source,) in connection.execute("SELECT source FROM models ORDER BY id")],
        "plans": number("SELECT count(DISTINCT plan) FROM cells"),
        "tasks": number("SELECT count(DISTINCT task) FROM cells"),
        "results": number("SELECT count(*) FROM cells WHERE status <> 'running'"),
    }

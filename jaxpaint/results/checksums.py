"""Sums over a results store's rows, kept beside them, so that a bit that flips anywhere in a row is found.

A sum adds up 62-bit hashes of rows, in whatever order: rows that come later are added to it. Scores and documents'
scores have one for each cell, since there may be millions of them; hashing those costs less than reading them.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jaxpaint.results.layout import SINCE
from jaxpaint.results.schema import has_table

if TYPE_CHECKING:
    import numpy as np

OWNERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("models", "tasks", "task_groups", "plans", "environments", "cells", "runs"), "id"),
        **dict.fromkeys(("scores", "metrics", "document_scores"), "cell"),
        **{"requests": "task", "document_texts": "task", "variants": "plan", "analyses": "plan"},
        "group_members": "task_group",
    }
)
"""The tables whose rows are summed, and the column that says which rows go together."""

_MASK = (1 << 62) - 1  # two of them add up to an SQLite integer
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's
_ODD = 0x9E3779B97F4A7C15

Totals = dict[int, int | None]


def stored(connection: sqlite3.Connection) -> dict[str, Totals]:
    """The sums that a store keeps, by table and owner. A store of version 2 has none."""
    found: dict[str, Totals] = {part: {} for part in OWNERS}
    if has_table(connection, "checksums"):
        for part, owner, value in connection.execute("SELECT CAST(part AS BLOB), owner, value FROM main.checksums"):
            found.setdefault((part or b"").decode("utf-8", "replace"), {})[owner] = value
    return found


def computed(connection: sqlite3.Connection, part: str, owners: Iterable[int] | None = None) -> Totals:
    """The sums of a table's rows as they are, of some owners or of all that have rows; None where one cannot be."""
    if part in SINCE and not has_table(connection, part):
        return {}
    with _bytes_for_text(connection):
        if part in _LARGE:
            if owners is None:
                owners = [cell for (cell,) in connection.execute("SELECT id FROM main.cells")]
            return {owner: _LARGE[part](connection, owner) for owner in owners}
        column = OWNERS[part]
        query = f"SELECT {column}, * FROM main.{part}"
        rows: Iterator[Sequence[Any]] = connection.execute(query)
        if owners is not None:
            rows = (row for owner in owners for row in connection.execute(f"{query} WHERE {column} = ?", (owner,)))
        totals: Totals = defaultdict(int)
        for owner, *row in rows:
            totals[owner] = ((totals[owner] or 0) + _hash(row)) & _MASK
        return dict(totals)


def seal(connection: sqlite3.Connection, part: str, owners: Iterable[int]) -> None:
    """Keeps the sums of the owners' rows as they are, inside the caller's transaction."""
    owners = [int(owner) for owner in owners]
    found = computed(connection, part, owners)
    connection.executemany(
        "INSERT OR REPLACE INTO main.checksums (part, owner, value) VALUES (?, ?, ?)",
        ((part, owner, found.get(owner, 0)) for owner in owners),
    )


def seal_all(connection: sqlite3.Connection) -> None:
    """As `seal`, of all rows."""
    connection.execute("DELETE FROM main.checksums")
    for part in OWNERS:
        totals = computed(connection, part).items()
        rows = ((part, owner, value) for owner, value in totals if value)
        connection.executemany("INSERT INTO main.checksums (part, owner, value) VALUES (?, ?, ?)", rows)


def add_scores(connection: sqlite3.Connection, rows: Sequence[tuple[int, int, float | None, int, str | None]]) -> None:
    """Adds new rows of `scores` (cell, request, log-likelihood, is_greedy, text) to their cells' sums."""
    if not rows:
        return
    import numpy as np

    cells, places = np.unique([row[0] for row in rows], return_inverse=True)
    totals = np.zeros(len(cells), np.uint64)
    hashes = _hashes([row[:4] for row in rows])
    hashes += np.array([0 if row[4] is None else _hash((row[1], _text(row[4].encode()))) for row in rows], np.uint64)
    np.add.at(totals, places.reshape(-1), hashes)
    connection.executemany(
        "INSERT INTO main.checksums (part, owner, value) VALUES ('scores', ?, ?) "
        f"ON CONFLICT DO UPDATE SET value = (value + excluded.value) & {_MASK}",
        [(int(cell), int(total) & _MASK) for cell, total in zip(cells, totals, strict=True)],
    )


def _of_scores(connection: sqlite3.Connection, cell: int) -> int | None:
    # The cell too: a row where another one stands is found among those of its place.
    values = "SELECT cell, request, loglikelihood, is_greedy FROM main.scores WHERE cell = ?"
    total = _total(connection.execute(values, (cell,)).fetchall())
    # Texts are few, and a query of their own is cheaper than a column of NULLs.
    texts = "SELECT request, text FROM main.scores WHERE cell = ? AND text IS NOT NULL"
    return None if total is None else (total + sum(map(_hash, connection.execute(texts, (cell,))))) & _MASK


def _of_documents(connection: sqlite3.Connection, cell: int) -> int | None:
    groups = defaultdict(list)
    query = "SELECT metric, filter, cell, document, value FROM main.document_scores WHERE cell = ?"
    for metric, filter, *row in connection.execute(query, (cell,)):
        groups[metric, filter].append(row)
    totals = [_total(rows, _hash(names)) for names, rows in groups.items()]
    return None if None in totals else sum(total or 0 for total in totals) & _MASK


_LARGE = {"scores": _of_scores, "document_scores": _of_documents}


def _total(rows: Sequence[Sequence[Any]], seed: int = 0) -> int | None:
    if not rows:
        return 0
    try:
        return int(_hashes(rows, seed).sum()) & _MASK
    except (TypeError, ValueError):  # text or bytes in place of a number
        return None


def _hashes(rows: Sequence[Sequence[Any]], seed: int = 0) -> np.ndarray:
    """One for each row of numbers, uint64: splitmix64 over their bits. None is NaN, and -0.0 is 0.0 as in SQLite."""
    import numpy as np

    values = np.asarray(rows, np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    mixed = np.full(len(values), seed, np.uint64)
    for column in values.T:
        mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint64)) + np.uint64(_ODD)
        for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _text(encoded: bytes) -> tuple[bytes]:
    return (encoded,)


def _hash(row: Iterable[Any]) -> int:
    """Of any values: numbers, bytes, `_text`, None."""
    return int.from_bytes(blake2b(repr(tuple(row)).encode(), digest_size=8).digest(), "little") & _MASK


@contextmanager
def _bytes_for_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Text that is no text any more can still be summed; it is told from blobs, which are plain bytes."""
    before, connection.text_factory = connection.text_factory, _text
    try:
        yield
    finally:
        connection.text_factory = before

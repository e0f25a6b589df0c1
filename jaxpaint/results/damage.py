"""What of a results store cannot be trusted: rows whose sum is another, values that are no such values, torn indexes.

Readers refuse such a store by naming what is damaged; whoever writes takes it out, so that it is computed anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.results import checksums
from jaxpaint.results.kinds import STORY
from jaxpaint.results.layout import STATEMENTS
from jaxpaint.results.schema import explained, has_table, one, snapshot, transaction, unverified

SHOWN = 3
MOST_ROUNDS = 3  # a row that names another cell may lie among its own until these are taken out
LARGEST_REAL = "1.7976931348623157e308"  # beyond it are infinities
MOST_LAYERS = 100_000  # of a model, in any row that counts them
# What of a row refers to another table's.
_REFERENCES = {
    "cells": {"model": "models", "task": "tasks", "plan": "plans", "environment": "environments"},
    "analyses": {"model": "models", "plan": "plans"},
    "variants": {"plan": "plans"},
    "requests": {"task": "tasks"},
    "group_members": {"task_group": "task_groups", "task": "tasks"},
}
_OF_CELLS = ("scores", "metrics", "document_scores")
_OBJECTS = {
    ("tasks", "settings"),
    ("task_groups", "definition"),
    ("environments", "description"),
    ("analyses", "settings"),
}
_NUMBERS = ("analyses", "value")
_DEEPEST = "[[[[[[[["  # no analysis has as many axes
_INDEXED = ("models", "tasks", "task_groups", "requests", "plans", "variants", "environments", "cells", "runs")


@dataclass(frozen=True)
class Damage:
    """Owners (`jaxpaint.results.checksums.OWNERS`) whose rows are damaged and those without a sum yet, by table, and
    tables whose index contradicts them.

    `rows` are rows of `cells` that name what is not there; the other `cells` only hold results that are damaged.
    """

    owners: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unsealed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    torn: frozenset[str] = frozenset()
    rows: frozenset[int] = frozenset()
    cells: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.torn) or any(self.owners.values())


def find(connection: sqlite3.Connection) -> Damage:
    """All that is damaged, in the moment that the caller's transaction sees."""
    there = [table for table in _INDEXED if has_table(connection, table)]
    torn = {table for table in there if one(connection, f"PRAGMA main.integrity_check('{table}')") != "ok"}
    known = checksums.stored(connection)
    bad: dict[str, set[int]] = {part: set() for part in checksums.OWNERS}
    unsealed: dict[str, frozenset[int]] = {}
    for part in checksums.OWNERS:
        found = checksums.computed(connection, part)
        unsealed[part] = frozenset(owner for owner in found if owner not in known[part] and found[owner] != 0)
        bad[part] |= {owner for owner in known[part] if found.get(owner, 0) != known[part][owner]}
        if unsealed[part]:
            bad[part] |= {owner for (owner,) in connection.execute(_misfits()[part])} & unsealed[part]
    bad["cells"] |= _depending(connection, "cells", bad)
    rows = frozenset(bad["cells"])
    for part in ("analyses", "group_members"):
        bad[part] |= _depending(connection, part, bad)
    of_tasks = bad["requests"] | bad["tasks"]
    cells = rows.union(*(bad[part] for part in _OF_CELLS))
    cells |= {cell for cell, task in connection.execute("SELECT id, task FROM main.cells") if task in of_tasks}
    return Damage(
        {part: frozenset(owners) for part, owners in bad.items()}, unsealed, frozenset(torn), rows, frozenset(cells)
    )


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """As `jaxpaint.results.schema.unverified`, of a store whose rows are what was written.

    Raises:
        UserError: as there, or something of it is damaged, which it names.
    """
    with unverified(path) as connection:
        if damage := find(connection):
            raise UserError(
                f"results store {path} is damaged: {described(connection, damage)}; the same study again computes "
                f"that anew, or `jaxpaint results --merge NEW.sqlite {path}` keeps the rest"
            )
        yield connection


def described(connection: sqlite3.Connection, damage: Damage) -> str:
    """What is damaged, in words."""
    named = [_cell_name(connection, cell) for cell in sorted(damage.cells, key=str)[:SHOWN]]
    if named:
        more = f" and {len(damage.cells) - SHOWN} more" if len(damage.cells) > SHOWN else ""
        return f"{count(len(damage.cells), 'result')} ({visible_name(', '.join(named))}{more})"
    tables = sorted({*damage.torn, *(part for part, owners in damage.owners.items() if owners)})
    return f"rows of {', '.join(tables)}"


def _cell_name(connection: sqlite3.Connection, cell: int) -> str:
    query = (
        "SELECT CAST(t.name AS BLOB), CAST(p.text AS BLOB) FROM main.cells AS c JOIN main.tasks AS t ON t.id = c.task "
        "JOIN main.plans AS p ON p.id = c.plan WHERE c.id = ?"
    )
    found = connection.execute(query, (cell,)).fetchone()
    return (
        "{} under {}".format(*((text or b"?").decode("utf-8", "replace")[:60] for text in found))
        if found
        else f"number {cell}"
    )


def mend(connection: sqlite3.Connection, path: Path) -> str:
    """Takes out what is damaged and seals what has no sum yet; what was damaged, in words, "" if nothing.

    Raises:
        UserError: the file is damaged beyond that, or cannot be written.
    """
    with explained(path):
        with snapshot(connection):
            found = find(connection)
        if not found and not any(found.unsealed.values()):
            return ""
        connection.execute("PRAGMA foreign_keys = OFF")  # rows are put back whole
        with transaction(connection):
            words = _mended(connection, path)
        connection.execute("PRAGMA foreign_keys = ON")
        return words


def _mended(connection: sqlite3.Connection, path: Path) -> str:
    words: list[str] = []
    while found := find(connection):
        words.append(described(connection, found))
        if len(words) > MOST_ROUNDS:
            raise UserError(
                f"results store {path} is damaged beyond repair: {words[-1]}; use a copy, or move it away and run the "
                "study again"
            )
        _take_out(connection, found)
    if words:
        checksums.seal_all(connection)  # theirs may be the damage
    else:
        for part, owners in found.unsealed.items():
            checksums.seal(connection, part, owners)
    return ", ".join(words)


def _take_out(connection: sqlite3.Connection, damage: Damage) -> None:
    """Tables with damage are written anew without it. Cells that only lost their results stay, as running ones."""
    gone = {part: set(owners) for part, owners in damage.owners.items()}
    gone["cells"] = set(damage.rows)
    for part in _OF_CELLS:
        gone[part] = set(damage.cells)
    for part in ("variants", "analyses"):
        gone[part] |= gone["plans"]
    for part in ("requests", "document_texts"):
        gone[part] |= gone["tasks"]
    gone["group_members"] |= gone["task_groups"]
    for part, owners in gone.items():
        if owners or part in damage.torn:
            _rewrite(connection, part, owners)
    left = {cell for cell in damage.cells - damage.rows if isinstance(cell, int)}
    connection.executemany(
        "UPDATE main.cells SET status = 'running', documents = NULL, finished = NULL WHERE id = ?",
        ((cell,) for cell in left),
    )
    # Those of requests that are gone, and of whoever computed what is gone.
    connection.execute("DELETE FROM main.claims")
    checksums.seal(connection, "cells", left)


def _rewrite(connection: sqlite3.Connection, table: str, gone: set[int]) -> None:
    """A whole table through a copy: what cannot be found by its key any more cannot be deleted by it either."""
    owner = checksums.OWNERS[table]
    connection.execute("CREATE TEMP TABLE gone (owner INTEGER PRIMARY KEY)")
    connection.executemany("INSERT OR IGNORE INTO temp.gone VALUES (?)", ((each,) for each in gone))
    sound = f"+{owner} NOT IN (SELECT owner FROM temp.gone)"
    if table in _OF_CELLS:
        sound += " AND +cell IN (SELECT id FROM main.cells)"
    connection.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM main.{table} WHERE {sound}")
    connection.execute(f"DELETE FROM main.{table}")
    connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM temp.kept")
    connection.executemany("DELETE FROM main.checksums WHERE part = ? AND owner IS ?", ((table, each) for each in gone))
    for name in ("kept", "gone"):
        connection.execute(f"DROP TABLE temp.{name}")


def _depending(connection: sqlite3.Connection, table: str, bad: Mapping[str, set[int]]) -> set[int]:
    """Owners of the table's rows that refer to what is damaged or not there."""
    found: set[int] = set()
    if not has_table(connection, table):
        return found
    for column, other in _REFERENCES[table].items():
        there = {id for (id,) in connection.execute(f"SELECT id FROM main.{other}")} - bad[other]
        query = f"SELECT DISTINCT {checksums.OWNERS[table]}, {column} FROM main.{table} WHERE {column} IS NOT NULL"
        found |= {owner for owner, reference in connection.execute(query) if reference not in there}
    return found


@cache
def _misfits() -> Mapping[str, str]:
    """For each table the query of owners of rows that hold something else than their columns say."""
    empty = sqlite3.connect(":memory:")
    for statement in STATEMENTS.values():
        empty.execute(statement)
    queries = {}
    for table, owner in checksums.OWNERS.items():
        columns = empty.execute(f"PRAGMA table_info({table})").fetchall()
        wrong = " OR ".join(_misfit(table, name, kind, bool(required)) for _, name, kind, required, *_ in columns)
        queries[table] = f"SELECT DISTINCT {owner} FROM main.{table} WHERE {wrong}"
    empty.close()
    return queries


def _misfit(table: str, name: str, kind: str, required: bool) -> str:
    allowed = f"'{kind.lower()}'" if required else f"'{kind.lower()}', 'null'"
    wrong = [f"typeof({name}) NOT IN ({allowed})"]
    if kind == "REAL":
        wrong.append(f"abs({name}) > {LARGEST_REAL}")
    if name == "num_layers":
        wrong.append(f"{name} NOT BETWEEN 1 AND {MOST_LAYERS}")
    text = f"CAST({table}.{name} AS TEXT)"  # json_tree has a `value` of its own
    if (table, name) in _OBJECTS:
        wrong.append(f"CASE WHEN json_valid({text}) THEN json_type({text}) <> 'object' ELSE 1 END")
    if (table, name) == _NUMBERS:
        with_texts = f"CASE WHEN {table}.name = '{STORY}' THEN 'text' ELSE 'array' END"
        atoms = f"SELECT 1 FROM json_tree({text}) WHERE type NOT IN ('array', 'integer', 'real', 'null', {with_texts})"
        deep = f"instr({text}, '{_DEEPEST}')"
        wrong.append(f"CASE WHEN {deep} OR NOT json_valid({text}) THEN 1 ELSE EXISTS ({atoms}) END")
    return f"ifnull({' OR '.join(wrong)}, 0)"

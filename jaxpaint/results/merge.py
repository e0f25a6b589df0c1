"""Stores joined into one: the shards of a study, or studies of other models, tasks and documents."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from jaxpaint.base.disk import sync
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import followed, working_folder
from jaxpaint.results import checksums
from jaxpaint.results.damage import find, mend
from jaxpaint.results.schema import connect, explained, has_table, one, readable_uri, transaction, unverified

TOLERANCE = 1e-3  # nats: what packing may change in a log-likelihood

# What makes a row the same in two stores, and which of its columns are ids of other tables; in order of reference.
KEYS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "models": (("fingerprint", "dtype"), {}),
    "tasks": (("name", "version", "num_fewshot", "bos", "settings"), {}),
    "plans": (("text",), {}),
    "environments": (("description",), {}),
    "variants": (("num_layers", "label"), {"plan": "plans"}),
    "requests": (("task", "document", "number"), {"task": "tasks"}),
    "cells": (
        ("model", "task", "plan"),
        {"model": "models", "task": "tasks", "plan": "plans", "environment": "environments"},
    ),
}


def merge(destination: Path, sources: Sequence[Path]) -> list[str]:
    """Joins the stores `sources` into `destination`, which is made if it is missing and added to if it is there.

    A cell that one of the stores has finished with all the scores that any has stays finished. Where each has scores
    that the others lack, the cell is running, with the union of them, until a study finishes it. Metrics, analyses
    and descriptions that several have are the first store's. Merging a store again changes nothing. What is damaged in
    a store is left out: the lines returned say so.

    Raises:
        UserError: a store cannot be read or written, or two contradict each other: other text for one request,
            log-likelihoods that differ by more than 1e-3, other plans under one label. The destination is as before.
    """
    log = destination.with_name(f"{destination.name}-wal")
    if log.exists() and not destination.exists():
        raise UserError(f"{log} is left over from a results store that is gone; remove it, or name another file")
    if destination.exists():
        with unverified(destination):  # what cannot be merged into is said before the work
            pass
    left_out = []
    destination = followed(destination)
    with working_folder(destination) as folder, explained(destination), ExitStack() as readers:
        sound = []
        for number, source in enumerate(sources):
            reader = readers.enter_context(unverified(source))
            with explained(source):
                copy, words = _mended(reader, folder / f"{number}.sqlite")
            sound.append(copy or source)
            if words:
                left_out.append(f"left out of results store {source}, where it is damaged: {words}")
        # All contradictions among the sources are found here, and the destination is touched once.
        gathered = folder / "merged.sqlite"
        with closing(connect(gathered, create=True)) as connection:
            for source, file in zip(sources, sound, strict=True):
                _add(connection, file, f"results store {source}")
        if destination.exists():
            with closing(connect(destination, create=False)) as connection:
                if words := mend(connection, destination):
                    left_out.append(f"taken out of results store {destination}, where it was damaged: {words}")
                _add(connection, gathered, f"results store {destination}")
        else:
            os.replace(gathered, destination)
            sync(destination.parent)
    return left_out


def _mended(reader: sqlite3.Connection, copy: Path) -> tuple[Path | None, str]:
    """A copy of a store without what is damaged in it, and that in words; None and "" of a store that is sound."""
    if not find(reader):
        return None, ""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        reader.backup(connection)
    with closing(connect(copy, create=False)) as connection:
        return copy, mend(connection, copy)


def _add(connection: sqlite3.Connection, source: Path, blame: str) -> None:
    """Adds all of `source` to the open store, or nothing. `blame` begins the message of a contradiction."""
    connection.execute("ATTACH ? AS source", (readable_uri(source),))
    with transaction(connection):
        newest = one(connection, "SELECT coalesce(max(id), 0) FROM main.cells")
        for table, (key, references) in KEYS.items():
            _add_rows(connection, table, key, references)
        _check(connection, blame)
        _add_scores(connection, newest)
        _add_document_texts(connection)
        _add_groups(connection)
        _add_analyses(connection)
        _add_runs(connection)
        checksums.seal_all(connection)
        for table in KEYS:
            connection.execute(f"DROP TABLE temp.{table}_ids")
    connection.execute("DETACH source")


def _add_rows(connection: sqlite3.Connection, table: str, key: Sequence[str], references: Mapping[str, str]) -> None:
    """Adds the rows whose key is new, and notes which id here stands for which there, in temp.TABLE_ids."""
    columns = [name for _, name, *_ in connection.execute(f"PRAGMA main.table_info({table})") if name != "id"]
    here = {name: f"{name}_ids.here" if name in references else f"s.{name}" for name in columns}
    rows = " ".join(
        [f"source.{table} AS s"]
        + [
            f"LEFT JOIN temp.{other}_ids AS {name}_ids ON {name}_ids.there = s.{name}"
            for name, other in references.items()
        ]
    )
    connection.execute(
        f"INSERT OR IGNORE INTO main.{table} ({', '.join(columns)}) "
        f"SELECT {', '.join(here.values())} FROM {rows} ORDER BY s.id"
    )
    same = " AND ".join(f"d.{name} = {here[name]}" for name in key)
    connection.execute(f"CREATE TEMP TABLE {table}_ids (there INTEGER PRIMARY KEY, here INTEGER NOT NULL)")
    connection.execute(f"INSERT INTO temp.{table}_ids SELECT s.id, d.id FROM {rows} JOIN main.{table} AS d ON {same}")


def _check(connection: sqlite3.Connection, blame: str) -> None:
    """Raises UserError where the two stores contradict each other."""
    text = connection.execute(
        "SELECT t.name, s.document, s.number FROM source.requests AS s JOIN temp.requests_ids AS i ON i.there = s.id "
        "JOIN main.requests AS d ON d.id = i.here JOIN main.tasks AS t ON t.id = d.task WHERE s.content <> d.content"
    ).fetchone()
    if text:
        raise UserError(
            f"{blame}: task {text[0]}, document {text[1]}, request {text[2]} has another text than in the other "
            "stores, so their data or prompts differ; merge only stores of the same data"
        )
    label = connection.execute(
        "SELECT s.label, s.num_layers, a.text, b.text FROM source.variants AS s "
        "JOIN temp.variants_ids AS i ON i.there = s.id JOIN main.variants AS d ON d.id = i.here "
        "JOIN source.plans AS a ON a.id = s.plan JOIN main.plans AS b ON b.id = d.plan WHERE a.text <> b.text"
    ).fetchone()
    if label:
        raise UserError(
            f"{blame}: {label[0]!r} of {label[1]} layers stands for the plan {label[2]} in one store and {label[3]} "
            "in another; merge only stores made by the same version"
        )
    score = connection.execute(
        "SELECT t.name, p.text, r.document, r.number, s.loglikelihood, d.loglikelihood FROM source.scores AS s "
        "CROSS JOIN temp.cells_ids AS c ON c.there = s.cell CROSS JOIN temp.requests_ids AS q ON q.there = s.request "
        "CROSS JOIN main.scores AS d ON d.cell = c.here AND d.request = q.here "
        "JOIN main.requests AS r ON r.id = d.request JOIN main.tasks AS t ON t.id = r.task "
        "JOIN main.cells AS e ON e.id = d.cell JOIN main.plans AS p ON p.id = e.plan "
        "WHERE (s.loglikelihood IS NULL) <> (d.loglikelihood IS NULL) OR abs(s.loglikelihood - d.loglikelihood) > ?",
        (TOLERANCE,),
    ).fetchone()
    if score:
        task, plan, document, number, first, second = score
        raise UserError(
            f"{blame}: task {task}, document {document}, request {number} under plan {plan} has log-likelihood "
            f"{_shown(first)} in one store and {_shown(second)} in another; they differ by more than {TOLERANCE}, so "
            "one is wrong: score it again"
        )


def _shown(loglikelihood: float | None) -> str:
    return "not finite" if loglikelihood is None else f"{loglikelihood:.6f}"


def _add_scores(connection: sqlite3.Connection, newest: int) -> None:
    """Scores and what hangs on them. Cells whose id here is above `newest` are new and came with all their columns."""
    pairs = connection.execute("SELECT there, here FROM temp.cells_ids ORDER BY here").fetchall()
    for there, here in pairs:
        before = _count(connection, "main", here)
        connection.execute(
            "INSERT OR IGNORE INTO main.scores (cell, request, loglikelihood, is_greedy, text) "
            "SELECT ?, q.here, s.loglikelihood, s.is_greedy, s.text FROM source.scores AS s "
            "JOIN temp.requests_ids AS q ON q.there = s.request WHERE s.cell = ?",
            (here, there),
        )
        if here > newest:
            _replace_metrics(connection, there, here)
        else:
            _join_cells(connection, there, here, before)


def _join_cells(connection: sqlite3.Connection, there: int, here: int, before: int) -> None:
    """Settles the state of a cell that both stores have, after its scores have been joined."""
    counts = {"main": before, "source": _count(connection, "source", there)}
    union = _count(connection, "main", here)
    # Time is what the new scores took: those that both have were counted before.
    share = (union - before) / max(counts["source"], 1)
    connection.execute(
        "UPDATE main.cells SET seconds = seconds + ? * (SELECT seconds FROM source.cells WHERE id = ?) WHERE id = ?",
        (share, there, here),
    )
    states = {
        schema: connection.execute(f"SELECT status, documents FROM {schema}.cells WHERE id = ?", (cell,)).fetchone()
        for schema, cell in (("main", here), ("source", there))
    }
    documents = {schema: known or 0 for schema, (_, known) in states.items()}
    whole = [schema for schema, (status, _) in states.items() if status != "running" and counts[schema] == union]
    best = max(whole or states, key=documents.__getitem__)  # the first of equals: main
    if best == "source":
        _replace_metrics(connection, there, here)
        connection.execute(
            "UPDATE main.cells SET (documents, status, finished, environment) = (SELECT c.documents, c.status, "
            "c.finished, e.here FROM source.cells AS c LEFT JOIN temp.environments_ids AS e ON e.there = c.environment "
            "WHERE c.id = ?) WHERE id = ?",
            (there, here),
        )
    if not whole:
        connection.execute("UPDATE main.cells SET status = 'running' WHERE id = ?", (here,))


def _replace_metrics(connection: sqlite3.Connection, there: int, here: int) -> None:
    for table, columns in (
        ("metrics", "metric, filter, value, stderr, higher_is_better"),
        ("document_scores", "document, metric, filter, value"),
    ):
        connection.execute(f"DELETE FROM main.{table} WHERE cell = ?", (here,))
        connection.execute(
            f"INSERT INTO main.{table} (cell, {columns}) SELECT ?, {columns} FROM source.{table} WHERE cell = ?",
            (here, there),
        )


def _count(connection: sqlite3.Connection, schema: str, cell: int) -> int:
    return one(connection, f"SELECT count(*) FROM {schema}.scores WHERE cell = ?", (cell,))


def _add_document_texts(connection: sqlite3.Connection) -> None:
    """The first store's, where several have them: requests' hashes say that the texts are the same."""
    if has_table(connection, "document_texts", "source"):
        connection.execute(
            "INSERT OR IGNORE INTO main.document_texts (task, document, question, answer) "
            "SELECT t.here, s.document, s.question, s.answer FROM source.document_texts AS s "
            "JOIN temp.tasks_ids AS t ON t.there = s.task"
        )


def _add_groups(connection: sqlite3.Connection) -> None:
    """The first store's definition, where several have a group of equal members."""
    if not has_table(connection, "task_groups", "source"):
        return
    _add_rows(connection, "task_groups", ("name", "members"), {})
    connection.execute(
        "INSERT OR IGNORE INTO main.group_members (task_group, place, task) "
        "SELECT g.here, s.place, t.here FROM source.group_members AS s "
        "JOIN temp.task_groups_ids AS g ON g.there = s.task_group JOIN temp.tasks_ids AS t ON t.there = s.task"
    )
    connection.execute("DROP TABLE temp.task_groups_ids")


def _add_analyses(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO main.analyses (model, plan, name, settings, value) "
        "SELECT m.here, p.here, s.name, s.settings, s.value FROM source.analyses AS s "
        "JOIN temp.models_ids AS m ON m.there = s.model JOIN temp.plans_ids AS p ON p.there = s.plan"
    )


def _add_runs(connection: sqlite3.Connection) -> None:
    """A run's record grows while it lasts: the longer one of the same run is the later."""
    columns = "worker, started, seconds, executed, distinct_work, separate, command"
    connection.execute(
        f"INSERT INTO main.runs ({columns}) SELECT {columns} FROM source.runs WHERE true "
        "ON CONFLICT (worker, started) DO UPDATE SET seconds = excluded.seconds, executed = excluded.executed, "
        "distinct_work = excluded.distinct_work, separate = excluded.separate WHERE excluded.seconds > runs.seconds"
    )

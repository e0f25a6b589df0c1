"""The results store's file: its tables and views, how it is opened, and what its errors mean to people."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError, first_line

VERSION = 2
APPLICATION_ID = 0x4A505354  # "JPST"
LOCK_SECONDS = 60.0

# Statements end with a semicolon, which nothing else here may contain.
SCHEMA = """
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    dtype TEXT NOT NULL,            -- of the computation
    source TEXT,                    -- folder or hub id
    revision TEXT,
    num_layers INTEGER NOT NULL,
    UNIQUE (fingerprint, dtype)
);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    num_fewshot INTEGER NOT NULL,
    bos TEXT NOT NULL,              -- auto, on, off: as asked
    settings TEXT NOT NULL,         -- canonical JSON of everything else that changes scores
    chance REAL,                    -- the score of guessing, NULL where it is not known
    main_metric TEXT NOT NULL,      -- what figures show
    UNIQUE (name, version, num_fewshot, bos, settings)
);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    task INTEGER NOT NULL REFERENCES tasks,
    document INTEGER NOT NULL,
    number INTEGER NOT NULL,        -- among the document's requests
    content TEXT NOT NULL,          -- hash of the request's text
    UNIQUE (task, document, number)
);
CREATE TABLE plans (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE,
    cost INTEGER NOT NULL,          -- layer applications
    depth INTEGER NOT NULL          -- layers on the longest chain
);
CREATE TABLE variants (             -- the strategies that a plan stands for in a model of num_layers layers
    id INTEGER PRIMARY KEY,
    plan INTEGER NOT NULL REFERENCES plans,
    strategy TEXT NOT NULL,         -- 'custom': a plan of the user's own, whose label is its text
    num_layers INTEGER NOT NULL,
    label TEXT NOT NULL,
    start INTEGER,
    seed INTEGER,
    iterations INTEGER,
    times INTEGER,
    layer INTEGER,
    affected INTEGER,               -- layers that the strategy changes
    UNIQUE (num_layers, label)
);
CREATE TABLE environments (
    id INTEGER PRIMARY KEY,
    description TEXT NOT NULL UNIQUE   -- canonical JSON: device, library versions
);
CREATE TABLE cells (
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL REFERENCES models,
    task INTEGER NOT NULL REFERENCES tasks,
    plan INTEGER NOT NULL REFERENCES plans,
    documents INTEGER,              -- how many the metrics cover, NULL before the first are there
    status TEXT NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'not finite')),
    seconds REAL NOT NULL DEFAULT 0,   -- device time attributed by cost, summed over processes
    environment INTEGER REFERENCES environments,
    finished TEXT,                  -- ISO time, UTC
    UNIQUE (model, task, plan)
);
CREATE TABLE scores (
    cell INTEGER NOT NULL REFERENCES cells,
    request INTEGER NOT NULL REFERENCES requests,
    loglikelihood REAL,             -- nats, NULL: the logits were not finite, or the task generates
    is_greedy INTEGER NOT NULL,
    text TEXT,                      -- what a generative task's model wrote, NULL: the logits were not finite
    PRIMARY KEY (cell, request)
) WITHOUT ROWID;
CREATE TABLE metrics (
    cell INTEGER NOT NULL REFERENCES cells,
    metric TEXT NOT NULL,
    filter TEXT NOT NULL,
    value REAL,
    stderr REAL,
    higher_is_better INTEGER,
    PRIMARY KEY (cell, metric, filter)
) WITHOUT ROWID;
CREATE TABLE document_scores (      -- 0 or 1 for accuracies, log-likelihood in nats for perplexities
    cell INTEGER NOT NULL REFERENCES cells,
    document INTEGER NOT NULL,
    metric TEXT NOT NULL,
    filter TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (cell, metric, filter, document)
) WITHOUT ROWID;
CREATE TABLE analyses (
    model INTEGER NOT NULL REFERENCES models,
    plan INTEGER NOT NULL REFERENCES plans,
    name TEXT NOT NULL,
    settings TEXT NOT NULL,         -- canonical JSON
    value TEXT NOT NULL,            -- JSON: nested lists of numbers
    PRIMARY KEY (model, plan, name, settings)
) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    worker TEXT NOT NULL,
    started TEXT NOT NULL,          -- ISO time, UTC
    seconds REAL NOT NULL,
    executed INTEGER NOT NULL,      -- work in layer applications x positions: what ran
    distinct_work INTEGER NOT NULL, -- the least that could have
    separate INTEGER NOT NULL,      -- plan by plan, answer by answer
    command TEXT,
    UNIQUE (worker, started)
);
CREATE TABLE claims (               -- a live worker is computing what the model's cells miss of a request
    model INTEGER NOT NULL REFERENCES models,
    request INTEGER NOT NULL REFERENCES requests,
    worker TEXT NOT NULL,
    PRIMARY KEY (request, model)
) WITHOUT ROWID;
CREATE INDEX cells_by_task ON cells (task);
CREATE INDEX variants_by_plan ON variants (plan);
CREATE VIEW results AS              -- one row per cell, strategy that its plan stands for, and metric
    SELECT m.source AS model, m.revision, m.fingerprint, m.dtype, m.num_layers,
        t.name AS task, t.version, t.num_fewshot, t.bos, t.settings, t.chance, t.main_metric,
        p.text AS plan, p.cost, p.depth,
        v.strategy, v.label, v.start, v.seed, v.iterations, v.times, v.layer, v.affected,
        r.metric, r.filter, r.value, r.stderr, r.higher_is_better,
        c.documents, c.status, c.seconds, c.finished, c.id AS cell
    FROM cells c
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
    LEFT JOIN variants v ON v.plan = c.plan AND v.num_layers = m.num_layers
    LEFT JOIN metrics r ON r.cell = c.id;
CREATE VIEW responses AS            -- one row per cell and request, of whichever kind
    SELECT m.source AS model, m.fingerprint, m.dtype, t.name AS task, t.num_fewshot, t.bos, t.settings, p.text AS plan,
        q.document, q.number, s.loglikelihood, s.is_greedy, s.text, s.cell
    FROM scores s
    JOIN cells c ON c.id = s.cell
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
    JOIN requests q ON q.id = s.request;
CREATE VIEW loglikelihoods AS       -- those of tasks that score texts
    SELECT model, fingerprint, dtype, task, num_fewshot, bos, plan, document, number, loglikelihood, is_greedy, cell
    FROM responses WHERE json_extract(settings, '$.kv') IS NULL;
CREATE VIEW generations AS          -- those of tasks that write them
    SELECT model, fingerprint, dtype, task, num_fewshot, bos, settings, plan, document, number, text, cell
    FROM responses WHERE json_extract(settings, '$.kv') IS NOT NULL;
CREATE VIEW document_results AS     -- one row per cell, document and metric
    SELECT m.source AS model, m.fingerprint, m.dtype, t.name AS task, t.num_fewshot, t.bos, p.text AS plan,
        d.document, d.metric, d.filter, d.value, d.cell
    FROM document_scores d
    JOIN cells c ON c.id = d.cell
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
"""


def one(connection: sqlite3.Connection, query: str, values: Sequence[Any] = ()) -> Any:
    """The first value of the first row, of which there must be one."""
    return connection.execute(query, values).fetchone()[0]


def canonical_json(value: Any) -> str:
    """One text for equal values: keys sorted, no spaces. NaN is refused (ValueError), since JSON has none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def connect(path: Path, *, create: bool, timeout: float = LOCK_SECONDS) -> sqlite3.Connection:
    """A connection for `Store.open`, in autocommit mode: whoever writes says BEGIN IMMEDIATE."""
    _check_path(path, create)
    for file in (path, path.parent):
        if file.exists() and not os.access(file, os.W_OK):
            raise UserError(f"cannot write the results store {path}: no permission to write {file}")
    with explained(path):
        connection = sqlite3.connect(
            _uri(path, "rwc" if create else "rw"), uri=True, timeout=timeout, isolation_level=None
        )
        try:
            if create and _is_empty(connection):
                _create(connection, timeout)
            _check_header(connection, path)
            _use_wal(connection, timeout)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, all of it one moment's state, while others write.

    Works in a folder without write permission too. SQLite's errors inside the block become UserErrors.

    Raises:
        UserError: the file is missing, not a results store, of another version, or cannot be read.
    """
    _check_path(path, create=False)
    with explained(path):
        # Only who may write tidies the store's companions away at the end.
        may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        address = _uri(path, "rw") if may_write else readable_uri(path)
        connection = sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
        try:
            _check_header(connection, path)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def readable_uri(path: Path) -> str:
    """The address under which SQLite can read the store at `path` and nothing else, for connect and ATTACH."""
    normal = _uri(path, "ro")
    connection = sqlite3.connect(normal, uri=True)
    try:
        connection.execute("PRAGMA user_version")
    except sqlite3.OperationalError as error:
        log = path.with_name(path.name + "-wal")
        # A reader of a WAL database makes a shared-memory file beside it, which a folder of others may not allow.
        # Where no log is left the file is complete and nobody writes.
        logged = log.exists() and log.stat().st_size > 0
        if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and not logged:
            return f"{normal}&immutable=1"
    finally:
        connection.close()
    return normal


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite cannot help (disk, locks, permissions, other files) into UserErrors about `path`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        explain = _EXPLANATIONS.get(_code(error))
        if explain is None:
            raise
        raise UserError(f"results store {path}: {explain.format(error=first_line(error), path=path)}") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything in the block or nothing; nobody else writes from its first line on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # what happened first is what counts, and closing rolls back as well
                connection.execute("ROLLBACK")
        raise


_KEPT = "everything written before is kept"
_EXPLANATIONS = {
    sqlite3.SQLITE_FULL: f"the disk is full; {_KEPT}: make room and run the same command again",
    sqlite3.SQLITE_IOERR: "the disk does not take or give data ({error}); " + _KEPT + ": check the disk, its room and "
    "your quota, then run the same command again",
    sqlite3.SQLITE_BUSY: "another program kept it locked for too long; close it (a database browser, say) and run "
    f"the same command again; {_KEPT}",
    sqlite3.SQLITE_LOCKED: f"another program kept it locked; close it and run the same command again; {_KEPT}",
    sqlite3.SQLITE_READONLY: "it cannot be written ({error}); check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "no permission ({error}); check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened ({error}); check the permissions of the file and its folder",
    sqlite3.SQLITE_NOTADB: "this is not a results store, nor any SQLite database; give the FILE of a study's --store",
    sqlite3.SQLITE_CORRUPT: "the file is damaged ({error}); use a copy, or move it and its companions {path}-* away "
    "and run the study again",
}


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; errors that Python itself raises have none: 255, which SQLite does not use."""
    return getattr(error, "sqlite_errorcode", 0xFF) & 0xFF


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _check_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise UserError(f"results store {path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"results store {path}: the folder {path.parent} does not exist")
    if not create and not path.exists():
        raise UserError(f"results store {path} does not exist; `jaxpaint study --store {path}` makes one")
    if path.exists() and not os.access(path, os.R_OK):
        raise UserError(f"cannot read the results store {path}: no permission")


def _is_empty(connection: sqlite3.Connection) -> bool:
    """A new file, or one whose maker was killed before it held anything."""
    counted = ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
    return not any(one(connection, query) for query in counted)


def _create(connection: sqlite3.Connection, timeout: float) -> None:
    _use_wal(connection, timeout)
    with transaction(connection):
        if not _is_empty(connection):  # another process was first
            return
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Readers never wait for the writer. SQLite does not wait for others while it changes this, so we do."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_header(connection: sqlite3.Connection, path: Path) -> None:
    if one(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise UserError(f"{path} is an SQLite database of another program, not a results store; give another file name")
    version = one(connection, "PRAGMA user_version")
    if version != VERSION:
        maker, advice = "an older", "use another file name, or that older version"
        if version > VERSION:
            maker, advice = "a newer", "update jaxpaint"
        raise UserError(
            f"results store {path} has version {version}, made by {maker} jaxpaint; this one reads version {VERSION}: "
            f"{advice}"
        )

"""The results store's file: how it is opened, and what its errors mean to people."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.results.layout import APPLICATION_ID, READABLE, SINCE, STATEMENTS, VERSION

LOCK_SECONDS = 60.0


def one(connection: sqlite3.Connection, query: str, values: Sequence[Any] = ()) -> Any:
    """The first value of the first row, of which there must be one."""
    return connection.execute(query, values).fetchone()[0]


def has_table(connection: sqlite3.Connection, name: str, schema: str = "main") -> bool:
    """Whether a store has a table: an older one lacks those of `jaxpaint.results.layout.SINCE`."""
    return bool(connection.execute(f"SELECT 1 FROM {schema}.sqlite_master WHERE name = ?", (name,)).fetchone())


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
            _migrate(connection)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def unverified(path: Path) -> Iterator[sqlite3.Connection]:
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


def copy_to(copy: Path, path: Path) -> None:
    """Copies a store as it is at one moment, whole, while others write. Raises UserError as `unverified`."""
    with unverified(path) as connection, explained(copy), closing(sqlite3.connect(copy)) as other:
        connection.backup(other)


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One moment's state for all that the block reads."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


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
        # Bytes that are no text: Python's own error, which has no code.
        no_text = str(error).startswith("Could not decode")
        explain = _EXPLANATIONS.get(sqlite3.SQLITE_CORRUPT if no_text else _code(error))
        if explain is None:
            raise
        raise UserError(f"results store {path}: {explain.format(error=first_line(error), path=path)}") from error
    except UnicodeDecodeError as error:  # of the text of an error
        explain = _EXPLANATIONS[sqlite3.SQLITE_CORRUPT]
        raise UserError(f"results store {path}: {explain.format(error='not text', path=path)}") from error


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
        raise UserError(f"results store {path} does not exist; `jaxpaint list stores` shows those of a folder")
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
        for statement in STATEMENTS.values():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _migrate(connection: sqlite3.Connection) -> None:
    """An older store becomes one of this version, or stays as it is. `jaxpaint.results.damage` fills its checksums."""
    if one(connection, "PRAGMA user_version") == VERSION:
        return
    with transaction(connection):
        if one(connection, "PRAGMA user_version") != VERSION:  # no other process was first
            for name in SINCE:
                if not has_table(connection, name):
                    connection.execute(STATEMENTS[name])
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
    if _is_empty(connection):
        raise UserError(f"{path} is empty, not a results store yet: no study has written into it")
    if one(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise UserError(f"{path} is an SQLite database of another program, not a results store; give another file name")
    version = one(connection, "PRAGMA user_version")
    if version not in READABLE:
        maker, advice = "an older", "use another file name, or that older version"
        if version > VERSION:
            maker, advice = "a newer", "update jaxpaint"
        raise UserError(
            f"results store {path} has version {version}, made by {maker} jaxpaint; this one reads versions "
            f"{READABLE[0]} to {VERSION}: {advice}"
        )
    needed = {name: _plain(text) for name, text in STATEMENTS.items() if version >= SINCE.get(name, 0)}
    found = connection.execute("SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM main.sqlite_master")
    made = {name: _plain(text.decode("utf-8", "replace")) for name, text in found if text is not None}
    if torn := [name for name, text in needed.items() if made.get(name.encode()) != text]:
        raise UserError(
            f"results store {path} is damaged: {torn[0]} is not what it was made as; use a copy, or move it away and "
            "run the study again"
        )


def _plain(sql: str) -> str:
    """A statement without comments and line ends, which may change."""
    return " ".join(re.sub("--.*", "", sql).split())

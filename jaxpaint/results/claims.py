"""Who computes what: workers that are known to live, and their claims on requests in the results store."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaint.base.errors import UserError
from jaxpaint.base.names import inside

if TYPE_CHECKING:
    from filelock import BaseFileLock


class Worker:
    """One process at work on a store, as a context manager; the others can tell whether it still lives.

    It holds a lock on `FILE-workers/ID.lock`, which the kernel drops however the process ends. All workers of a store
    run on one machine, as SQLite's WAL mode demands anyway. At the end its file goes, and an empty folder with it.

    Attributes:
        id: names the worker in the store's tables `claims` and `runs`.

    Raises:
        UserError: on entering, the lock file cannot be made.
    """

    def __init__(self, store: Path) -> None:
        self._store, self._folder = store, workers_folder(store)
        self._lock: BaseFileLock
        self.id = ""

    def __enter__(self) -> Worker:
        from filelock import FileLock, Timeout

        host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:40]
        while True:
            self.id = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            file = self._folder / f"{self.id}.lock"
            try:
                self._folder.mkdir(exist_ok=True)
                self._lock = FileLock(file, thread_local=False)
                self._lock.acquire(timeout=0)
            except (FileNotFoundError, Timeout):
                continue  # another worker tidied the folder away, or took the new file for a dead worker's
            except OSError as error:
                raise UserError(f"cannot make the worker's lock {file}: {error.strerror}") from error
            if file.exists():
                break
            self._lock.release()
        for left in self._folder.glob("*.lock"):  # a killed worker's that had claimed nothing as well
            with suppress(OSError):  # another user's, say
                is_alive(self._store, left.stem)
        return self

    def __exit__(self, *_: object) -> None:
        # Removed while it is locked: a file that can be locked belongs to nobody who lives.
        (self._folder / f"{self.id}.lock").unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):
            self._folder.rmdir()


def workers_folder(store: Path) -> Path:
    """Where the workers of a store hold their locks."""
    return store.with_name(f"{store.name}-workers")


def is_alive(store: Path, worker: str) -> bool:
    """Whether the process that is `worker` still runs. The lock file of a dead one is removed."""
    from filelock import FileLock, Timeout

    try:
        file = inside(workers_folder(store), f"{worker}.lock", str(store))
    except UserError:  # no worker calls itself that
        return False
    if not file.exists():
        return False
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except FileNotFoundError:
        return False
    file.unlink(missing_ok=True)
    lock.release()
    return False


def take(connection: sqlite3.Connection, store: Path, worker: Worker, model: int, requests: Sequence[int]) -> list[int]:
    """Claims, inside the caller's transaction, those of `requests` that no other live worker has; returns them.

    Claims of dead workers, on any request, are dropped on the way.
    """
    others = connection.execute("SELECT DISTINCT worker FROM claims WHERE worker <> ?", (worker.id,)).fetchall()
    dead = [(other,) for (other,) in others if not is_alive(store, other)]
    connection.executemany("DELETE FROM claims WHERE worker = ?", dead)
    of_others = "SELECT request FROM claims WHERE model = ? AND worker <> ?"
    held = {request for (request,) in connection.execute(of_others, (model, worker.id))}
    free = [request for request in requests if request not in held]
    connection.executemany(
        "INSERT OR IGNORE INTO claims (model, request, worker) VALUES (?, ?, ?)",
        ((model, request, worker.id) for request in free),
    )
    return free


def drop(connection: sqlite3.Connection, worker: Worker, requests: Sequence[int] | None) -> None:
    """Gives up the worker's claims on `requests`, None for all of them, inside the caller's transaction."""
    if requests is None:
        connection.execute("DELETE FROM claims WHERE worker = ?", (worker.id,))
    else:
        connection.executemany(
            "DELETE FROM claims WHERE request = ? AND worker = ?", ((int(request), worker.id) for request in requests)
        )

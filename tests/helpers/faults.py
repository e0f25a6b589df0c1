"""Faults on purpose: a call of the system that fails, or that a process does not survive."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

CALLS = (
    *("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "posix_fallocate"),
    *("chmod", "chown", "utime", "pwrite", "ftruncate"),
)
KILLED = 77


@contextmanager
def faults(first: int, last: int, act: Callable[[str], None]) -> Iterator[None]:
    """`act(name)` in place of the calls of `os` that come `first` (counted from 1) to `last`."""
    number = count(1)

    def wrapped(name: str) -> Callable:
        real = getattr(os, name)

        def call(*arguments, **options):
            if first <= next(number) <= last:
                act(name)
            return real(*arguments, **options)

        return call

    with patch.multiple(os, **{name: wrapped(name) for name in CALLS}):
        yield


def fail(name: str) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def killed_at(number: int, act: Callable[[], None]) -> bool:
    """Whether a process of its own that does `act` gets to its call of that number, where it ends at once."""
    process = os.fork()
    if process == 0:
        with faults(number, number, lambda name: os._exit(KILLED)):
            act()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, KILLED), status
    return status == KILLED


def contents(place: Path) -> dict[str, str] | str | None:
    """What a file holds, or a folder's files do; None where there is nothing."""
    if place.is_dir():
        return {str(file.relative_to(place)): file.read_text() for file in place.rglob("*") if file.is_file()}
    return place.read_text() if place.exists() else None

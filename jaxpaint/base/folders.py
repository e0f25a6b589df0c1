"""Folders that appear whole or not at all, and replace others in one step."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from jaxpaint.base.disk import explained, keep_permissions, sync, sync_all
from jaxpaint.base.errors import UserError
from jaxpaint.base.locks import held
from jaxpaint.base.siblings import REPLACED, clear, left, put_back, remove, unused

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h
_SPARE_FILES = 6  # open at once while a folder and what is in it are removed
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@contextmanager
def new_folder(
    destination: str | Path, *, overwrite: bool = False, replaces: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A hidden folder beside `destination` that takes its name when the block ends well, and vanishes otherwise.

    Whoever looks sees the old folder or the new one, whole, whenever this process is killed. A link is followed: what
    it leads to is replaced. Processes that write the same destination take turns. What a killed one left is removed
    by the next; what it had not replaced yet gets its name again.

    Raises:
        UserError: `destination` exists (an empty folder does not count) and is not to be replaced: `overwrite`
            replaces only a folder that `replaces` recognises. Or its disk does not take it.
    """
    given = Path(destination)

    def check() -> None:
        _refuse_existing(given, overwrite, replaces)

    with explained(given):
        destination = followed(given)
        check()
    with folders_on_the_way(destination), working_folder(destination) as partial:
        check()
        yield partial
        check()  # hours may have gone by
        sync_all(partial)
        _put(partial, destination)


def require_new(
    destination: str | Path, *, overwrite: bool = False, replaces: Callable[[Path], bool] = lambda _: False
) -> None:
    """Raises UserError where `new_folder` would for what is there already: before the work that fills it."""
    given = Path(destination)
    with explained(given):
        followed(given)
        _refuse_existing(given, overwrite, replaces)


@contextmanager
def folders_on_the_way(destination: Path) -> Iterator[None]:
    """Makes them, and removes them if nothing comes of it."""
    made = [folder for folder in destination.parents if not folder.exists()]
    try:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write into {destination.parent}: {error.strerror}") from error
        yield
    finally:
        with suppress(OSError):  # not those that are needed
            for folder in made:
                folder.rmdir()


@contextmanager
def working_folder(destination: Path) -> Iterator[Path]:
    """An empty hidden folder beside `destination`, for one process at a time, that vanishes with the block.

    Raises UserError where it cannot be written, or what is written in the block.
    """
    with explained(destination), held(destination):
        put_back(destination)
        clear(destination)
        partial = unused(destination)
        spare = [os.open(destination.parent, os.O_RDONLY) for _ in range(_SPARE_FILES)]
        try:
            partial.mkdir()
            yield partial
        finally:
            for descriptor in spare:  # what failed may have been that no more files can be opened
                os.close(descriptor)
            remove(partial)
            put_back(destination)
            clear(destination)


def recover(destination: Path) -> None:
    """Gives a folder its name again that was being replaced when its process was killed; for readers."""
    with suppress(OSError, UserError, RuntimeError):
        destination = followed(destination)
        if not destination.exists() and any(hidden.name.endswith(REPLACED) for hidden in left(destination)):
            with held(destination):
                put_back(destination)


def followed(destination: str | Path) -> Path:
    """Where links lead. Raises UserError where they lead in a circle."""
    try:
        return Path(destination).resolve()
    except RuntimeError as error:
        raise UserError(f"{destination} leads nowhere: its links go in a circle") from error


def _put(partial: Path, destination: Path) -> None:
    """Gives a folder its name. What had it before is called `partial` afterwards."""
    if not os.path.lexists(destination):
        os.rename(partial, destination)
    else:
        keep_permissions(destination, partial)
        if not _exchange(partial, destination):
            replaced = partial.with_name(f"{partial.name}{REPLACED}")
            os.rename(destination, replaced)  # from here on to the next line `put_back` finds it
            os.rename(partial, destination)
            os.rename(replaced, partial)
    sync(destination.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step, which no other process sees the middle of; False where that cannot be."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


@cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's; None of systems that lack it."""
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None


def _refuse_existing(folder: Path, overwrite: bool, replaces: Callable[[Path], bool]) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{folder} exists already; choose another folder, or overwrite it (--overwrite)")
    if not replaces(folder):
        raise UserError(f"{folder} exists and is not something this would have written; it is left alone")

"""Turns at what several processes write: a lock file beside it, which goes when nobody holds it any more."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxpaint.base.caches import locks_folder
from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import say
from jaxpaint.base.siblings import sibling
from jaxpaint.base.words import text_digest

SUFFIX = ".jaxpaint-lock"
POLL, SAID_AFTER, SAID_AGAIN = 0.1, 2.0, 60.0  # seconds of waiting
A_MOMENT = 0.3  # seconds in which whoever only looked at a lock has let go of it
_HELD = {errno.EAGAIN, errno.EACCES}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def held(path: Path) -> Iterator[None]:
    """In the block no other process is in one like it for `path`. Waits for that, and says for whom and how long.

    The folder of `path` must be there. Locks that dead processes left in it are removed.

    Raises:
        OSError: it cannot be written to.
        UserError: neither its file system nor that of the user's cache folder has locks.
    """
    with _locked(path, SUFFIX, patience=float("inf")):
        yield


@contextmanager
def tried(path: Path) -> Iterator[bool]:
    """As `held`, but nobody waits: whether the block has it."""
    with _locked(path, SUFFIX, patience=A_MOMENT) as is_ours:
        yield is_ours


@contextmanager
def claimed(path: Path, kind: str) -> Iterator[bool]:
    """Whether `path` is this process's alone for the length of the block, as far as this `kind` of claim goes.

    As `held`, but nobody waits.
    """
    with _locked(path, f".{kind}{SUFFIX}", patience=A_MOMENT) as is_ours:
        yield is_ours


@contextmanager
def _locked(path: Path, suffix: str, patience: float) -> Iterator[bool]:
    path = path.absolute()
    file = sibling(path, suffix)
    try:
        descriptor = _wait(file, path, patience)
    except _NoLocksError:
        file = _own_folder() / f"{text_digest(str(path))}{suffix}"
        try:
            descriptor = _wait(file, path, patience)
        except _NoLocksError:
            raise UserError(
                f"neither the file system of {path.parent} nor that of {file.parent} has locks; set JAXPAINT_CACHE to "
                "a folder on a disk of this machine"
            ) from None
    try:
        if descriptor is not None:
            remove_abandoned(file.parent)
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(descriptor, file)


class _NoLocksError(Exception):
    """The file system has none."""


def _wait(file: Path, path: Path, patience: float) -> int | None:
    """A descriptor of the lock file once this process holds it; None where another does after so many seconds."""
    began = time.monotonic()
    said = began + SAID_AFTER - SAID_AGAIN
    while True:
        descriptor, holder = _take(file)
        if descriptor is not None:
            return descriptor
        waited = time.monotonic() - began
        if waited >= patience:
            return None
        if time.monotonic() - said >= SAID_AGAIN:
            said = time.monotonic()
            say(f"waiting for {holder}, which is writing {path} ({waited:.0f} s so far; its lock is {file})")
        time.sleep(POLL)


def _take(file: Path) -> tuple[int | None, str]:
    """A descriptor of the lock file, held from now on; or None, and who holds it."""
    while True:
        descriptor = _open(file)
        try:
            if not _lock(descriptor):
                return None, _holder(descriptor)
            if _is_at(descriptor, file):
                _sign(descriptor)
                kept, descriptor = descriptor, -1
                return kept, ""
        except _NoLocksError:
            with suppress(OSError):
                os.unlink(file)
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _open(file: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(file, flags | os.O_RDWR, 0o666)
    except PermissionError:  # another user's, which may be locked all the same
        descriptor = os.open(file, flags & ~os.O_CREAT | os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, "it is no lock file, but has its name; remove it", str(file))
    return descriptor


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from error
        if error.errno not in _HELD:
            raise
        return False
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the file is still there under its name: who held it before may have removed it."""
    try:
        there, ours = os.lstat(file), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _sign(descriptor: int) -> None:
    """Says in the file who holds it, where there is room for that."""
    if os.fstat(descriptor).st_nlink == 1:  # not in a file that has another name too
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    with suppress(OSError):
        found = re.match(rb"(\d{1,10}) ([\w.-]{1,64})\n", os.pread(descriptor, 80, 0))
        if found:
            host = found[2].decode()
            return f"process {int(found[1])}" + ("" if host == socket.gethostname() else f" on {host}")
    return "another process"


def _release(descriptor: int, file: Path) -> None:
    with suppress(OSError):
        os.unlink(file)  # while it is held: who waits for it sees that it is gone, and makes a new one
    os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Removes lock files in a folder that nobody holds: those of dead processes."""
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
        for name in names:
            with suppress(OSError, _NoLocksError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    if _lock(descriptor) and _is_at(descriptor, folder / name):
                        os.unlink(folder / name)
                finally:
                    os.close(descriptor)


def _own_folder() -> Path:
    folder = locks_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UserError(f"the folder of locks {folder} is not yours; set JAXPAINT_CACHE to a folder of your own")
    folder.chmod(0o700)
    return folder

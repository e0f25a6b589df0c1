"""Room on disks, and data that is really there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.siblings import sibling

_NO_FOLDERS = {errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EISDIR}
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def require_room(folder: Path, needed: int, what: str, why: str = "") -> None:
    """Raises UserError where a folder's disk has not so many bytes free as `what` needs; `why` explains how many."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free and {what} needs {needed / 1e9:.1f} GB{why}; make room, or choose "
            "a destination on another disk"
        )


def reserve(file: Path, size: int) -> None:
    """Makes a file of so many bytes that are its own: writing to a memory map of it cannot lack room.

    Raises OSError where there is not as much.
    """
    with file.open("xb") as opened:
        if not size:
            return
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(opened.fileno(), 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
        block = bytes(min(size, 1 << 20))
        for done in range(0, size, len(block)):
            opened.write(block[: size - done])


def sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk: they outlast a power failure."""
    is_folder = path.is_dir()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in _NO_FOLDERS:  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """`sync` of all that is in a folder, and of itself."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            if not os.path.islink(os.path.join(parent, name)):
                sync(Path(parent, name))
        sync(Path(parent))


def keep_permissions(old: Path, new: Path) -> None:
    """Gives the file or folder `new` the mode and attributes of `old`, and, where root asks, all in it the owner."""
    status = old.stat()
    shutil.copystat(old, new)
    if os.geteuid() == 0:
        for parent, folders, files in os.walk(new):
            for name in (*folders, *files):
                os.chown(os.path.join(parent, name), status.st_uid, status.st_gid, follow_symlinks=False)
        os.chown(new, status.st_uid, status.st_gid)
        os.chmod(new, status.st_mode & 0o7777)  # which a new owner may have cost
    os.utime(new)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what a disk does not take while `path` is written into a UserError. Other files' errors stay what they are.

    Compiled writers (safetensors, TensorStore) raise errors of their own, which only quote the system's.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if isinstance(error.filename, str | bytes) and not _concerns(path, Path(os.fsdecode(error.filename))):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or first_line(error)}") from error
    except Exception as error:
        reason = next((os.strerror(code) for code in _OF_DISKS if os.strerror(code) in str(error)), None)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}") from error


def _concerns(path: Path, file: Path) -> bool:
    """Whether `file` is part of `path` or of its hidden siblings, or a folder that it is in."""
    path, file = Path(os.path.realpath(path)), file.absolute()
    hidden = sibling(path, "").name
    within = (at for at in (file, *file.parents) if at.parent == path.parent)
    return file in path.parents or any(at == path or at.name.startswith(hidden) for at in within)

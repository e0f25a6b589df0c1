"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jaxpaint.base.disk import explained, keep_permissions, sync
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import folders_on_the_way, followed
from jaxpaint.base.locks import held
from jaxpaint.base.siblings import clear, remove, unused

MOST_LINKS = 40


def write_whole(content: str | bytes, path: Path) -> None:
    """Writes beside `path` and renames, so that a crash leaves the old file or the new one, whole.

    Links are followed, and a file that is replaced leaves its mode (and, where root writes, its owner). What is no
    regular file, such as a device or a pipe, is written into. Text is written in UTF-8.

    Raises:
        UserError: the file cannot be written.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with explained(path):
        if is_stream(path):
            descriptor = _own_descriptor(path)
            with open(path if descriptor is None else os.dup(descriptor), "wb") as file:
                file.write(data)
            return
        _require_file(path)
        with _beside(followed(path), lambda: None) as file:
            file.write(data)


@contextmanager
def new_file(
    destination: str | Path, *, overwrite: bool = False, replaces: Callable[[Path], bool] = lambda _: False
) -> Iterator[BinaryIO]:
    """A hidden file beside `destination`, open for writing: `jaxpaint.base.folders.new_folder` of a file.

    Raises:
        UserError: as `require_new_file`, before the block and after it; or its disk does not take it.
    """
    given = Path(destination)

    def check() -> None:
        require_new_file(given, overwrite=overwrite, replaces=replaces)

    with explained(given):
        check()
        target = followed(given)
        with folders_on_the_way(target), _beside(target, check) as file:
            yield file


def require_new_file(
    destination: str | Path, *, overwrite: bool = False, replaces: Callable[[Path], bool] = lambda _: False
) -> None:
    """Raises UserError where something is there already that is not to be replaced.

    `overwrite` replaces only a file that `replaces` recognises.
    """
    given = Path(destination)
    with explained(given):
        if not followed(given).exists():
            return
        if given.is_dir():
            raise UserError(f"{given} is a folder; give the name of a file")
        if not overwrite:
            raise UserError(f"{given} exists already; choose another name, or overwrite it (--overwrite)")
        if not replaces(given):
            raise UserError(f"{given} exists and is not something this would have written; it is left alone")
        _require_file(given)


@contextmanager
def _beside(target: Path, check: Callable[[], None]) -> Iterator[BinaryIO]:
    """An open file that gets the name `target` when the block ends well, and vanishes otherwise.

    `check` may refuse at the end.
    """
    with held(target):
        clear(target)
        partial = unused(target)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(partial, flags, 0o600 if target.exists() else 0o666), "wb") as file:
                yield file
            check()
            if target.exists():
                keep_permissions(target, partial)
            sync(partial)
            os.replace(partial, target)
            sync(target.parent)
        finally:
            remove(partial)


def check_writable(path: Path, kind: str, option: str = "--output") -> None:
    """Fails before hours of work rather than after them. `kind` is what the option names, such as "a JSON file".

    Raises:
        UserError: a file cannot be made there.
    """
    with explained(path):
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder; give the name of {kind}")
        if is_stream(path):
            if not os.access(path, os.W_OK):
                raise UserError(f"{option} {path} cannot be written to")
            return
        _require_file(path)
        folder = followed(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option} {path}: the folder {folder} does not exist or cannot be written to")


def is_stream(path: Path) -> bool:
    """Whether what is written there goes elsewhere (a device, a pipe, standard output) and is not kept as a file."""
    if _own_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _require_file(path: Path) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path} is write-protected; give another name, or change its permissions")


def _own_descriptor(path: Path) -> int | None:
    """Of this process, where the path stands for one: /dev/stdout, /dev/fd/3, /proc/self/fd/3, or a link to one."""
    for _ in range(MOST_LINKS):
        parent = os.path.realpath(path.parent)
        if path.name.isdigit() and re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", parent):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None

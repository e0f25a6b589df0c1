"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxpaint.base.errors import UserError


def write_whole(text: str, path: Path) -> None:
    """Writes text beside `path` and renames, so that a crash leaves the old file or the new one, whole.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def check_writable(path: Path, kind: str) -> None:
    """Fails before hours of work rather than after them. `kind` is what --output names, such as "a JSON file".

    Raises:
        UserError: a file cannot be made there.
    """
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give the name of {kind}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: the folder {path.parent} does not exist or cannot be written to")


@contextlib.contextmanager
def new_folder(
    destination: str | Path, *, overwrite: bool = False, replaces: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A hidden folder beside `destination` that takes its name when the block ends well, and vanishes otherwise.

    Processes that write the same destination take turns. What a killed one left is removed by the next.

    Raises:
        UserError: `destination` exists (an empty folder does not count) and is not to be replaced: `overwrite`
            replaces only a folder that `replaces` recognises.
    """
    from filelock import FileLock

    destination = Path(destination).absolute()
    _refuse_existing(destination, overwrite, replaces)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Not beside the destination: a lock file that others may wait for cannot be removed safely.
        name = hashlib.sha256(str(destination).encode()).hexdigest()[:32]
        lock = FileLock(Path(tempfile.gettempdir()) / f"jaxpaint-{name}.lock", mode=0o666)
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write into {destination.parent}: {error.strerror}") from error
    partial = None
    try:
        _refuse_existing(destination, overwrite, replaces)
        for stale in destination.parent.glob(f".{destination.name}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
        partial.mkdir()
        yield partial
        if destination.exists():
            replaced = partial.with_name(f"{partial.name}-replaced")
            destination.rename(replaced)
            partial.rename(destination)
            shutil.rmtree(replaced)
        else:
            partial.rename(destination)
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _refuse_existing(destination: Path, overwrite: bool, replaces: Callable[[Path], bool]) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{destination} exists already; choose another folder, or overwrite it (--overwrite)")
    if not replaces(destination):
        raise UserError(f"{destination} exists and is not something this would have written; it is left alone")

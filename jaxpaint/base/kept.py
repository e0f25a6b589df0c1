"""What is kept between runs in the user's cache folder: what each takes, when it was last used, and its removal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base import caches
from jaxpaint.base.errors import UserError
from jaxpaint.base.locks import tried
from jaxpaint.base.siblings import remove, unused

CONVERTED, COMPILED, CRASHES = "converted model", "compiled programs", "tracebacks"


@dataclass(frozen=True)
class Kept:
    """A converted model, or all compiled programs, or all tracebacks: its bytes, and the second (of the epoch) at which
    it was last written or, as far as the file system keeps that, read."""

    kind: str
    name: str
    path: Path
    bytes: int
    last_used: float


def everything() -> list[Kept]:
    """All there is, models first, by name."""
    folders = [folder for folder in _inside(caches.stores_folder()) if folder.is_dir()]
    found = [_kept(CONVERTED, folder.name, folder) for folder in folders]
    for kind, folder in ((COMPILED, caches.compiled_folder()), (CRASHES, caches.crashes_folder())):
        if any(_files(folder)):
            found.append(_kept(kind, folder.name, folder))
    return found


def remove_kept(each: Kept) -> None:
    """Removes it; what a process begins to make meanwhile waits. Raises UserError where one uses it, or it stays."""
    if each.kind == CONVERTED:
        with tried(each.path) as is_free:
            user = None if is_free else "another process, which writes it"
            if user := user or used_by(each.path):
                raise UserError(f"{each.name} is in use by {user}; end that first")
            hidden = unused(each.path)
            os.rename(each.path, hidden)  # a model is there whole or not at all
        remove(hidden)
    else:
        for file in list(_files(each.path)):
            with suppress(OSError):
                file.unlink()
    if each.path.exists() and any(_files(each.path)):
        raise UserError(f"{each.name} could not be removed: {each.path} is still there; see its permissions")


def remove_older(each: Kept, seconds: float) -> int:
    """Of compiled programs and tracebacks, files that were not used for so long; how many bytes went."""
    went, before = 0, time.time() - seconds
    for file in list(_files(each.path)):
        with suppress(OSError):
            state = file.stat()
            if max(state.st_mtime, state.st_atime) < before:
                file.unlink()
                went += state.st_size
    return went


def used_by(folder: Path) -> str | None:
    """Another process that has a file of the folder open or in its memory, by number and name; None where none is
    known (Linux tells, and of one's own processes)."""
    start = f"{folder.resolve()}{os.sep}"
    for process in _inside(Path("/proc")):
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            opened = (os.readlink(link) for link in _inside(process / "fd"))
            if any(name.startswith(start) for name in opened) or start in (process / "maps").read_text():
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return None


def _kept(kind: str, name: str, path: Path) -> Kept:
    size, used = 0, 0.0
    for file in _files(path):
        with suppress(OSError):  # tidied away by another process
            state = file.stat()
            size, used = size + state.st_size, max(used, state.st_mtime, state.st_atime)
    return Kept(kind, name, path, size, used)


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        yield from (Path(path, name) for name in names)


def _inside(folder: Path) -> Sequence[Path]:
    """What is in a folder and not hidden, by name; nothing where it is not there or may not be read."""
    with suppress(OSError):
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    return []

"""Hidden names beside what is written: of what is not whole yet, and of what killed processes left."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from jaxpaint.base.words import text_digest

REPLACED = "-replaced"
"""Ends the name of what was whole under its own name, until what replaces it is there."""
MOST_BYTES = 180  # of a name that gets more at its end; file systems allow 255


def sibling(path: Path, ending: str) -> Path:
    """The hidden `.NAME` with an ending, beside `path`."""
    encoded = os.fsencode(path.name)
    if len(encoded) > MOST_BYTES:
        encoded = encoded[: MOST_BYTES - 33] + f"-{text_digest(path.name)}".encode()
    return path.with_name(f".{os.fsdecode(encoded)}{ending}")


def unused(path: Path) -> Path:
    """A new hidden name, which nobody can guess."""
    return sibling(path, f".partial-{os.getpid()}-{secrets.token_hex(8)}")


def left(path: Path) -> list[Path]:
    """What is there under hidden names of `path` and of nothing else, those of earlier versions included."""
    start = re.escape(sibling(path, ".partial-").name)
    pattern = re.compile(rf"{start}\d+(-[0-9a-f]{{16}})?({REPLACED})?")
    with suppress(OSError):
        return [path.with_name(name) for name in sorted(os.listdir(path.parent)) if pattern.fullmatch(name)]
    return []


def put_back(path: Path) -> None:
    """Gives what was being replaced its name again, where a process was ended before its successor had it."""
    if os.path.lexists(path):
        return
    old = [hidden for hidden in left(path) if hidden.name.endswith(REPLACED)]
    if old:
        os.rename(max(old, key=lambda hidden: hidden.stat().st_mtime), path)


def clear(path: Path) -> None:
    """Removes what is left of processes that were ended. What was whole stays while nothing else has its name."""
    for hidden in left(path):
        if not hidden.name.endswith(REPLACED) or os.path.lexists(path):
            remove(hidden)


def remove(path: Path) -> None:
    """Removes a file, link or folder, as far as that goes."""
    for wait in (0.0, 0.05, 0.2, 0.5):
        time.sleep(wait)  # a library's threads may still be writing what has failed
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        if not os.path.lexists(path):
            return

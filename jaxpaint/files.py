"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from jaxpaint.errors import UserError


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

"""Names that come from outside (a store's manifest, an index of shards, an archive), before they become paths."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxpaint.base.errors import UserError


def inside(folder: str | Path, name: object, where: str) -> Path:
    """The path of `name` in `folder`; `where` says in errors who names it, such as "manifest.json".

    Raises:
        UserError: it is no name (not text, empty, with control characters), or leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise UserError(f"{where} names {name!r}, which is not the name of a file")
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name or ".." in parts:
        raise UserError(f"{where} names {name!r}, which leads out of its folder; it was not followed")
    return Path(folder, name)


def require_text(path: str | Path) -> None:
    """Raises UserError for a path with bytes that are no UTF-8, which compiled readers and writers cannot be given."""
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {str(Path(path).absolute())!r} is not UTF-8 text; rename the folder") from error

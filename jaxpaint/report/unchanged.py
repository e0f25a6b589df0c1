"""Whether a report would come out as it is: of which store's content, by which code, it was made."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from jaxpaint.base import __version__
from jaxpaint.results import checksums
from jaxpaint.results.damage import reading


def made_from(store: Path) -> str:
    """A digest of all that a report says: the rows of a store, its name, and the code that draws.

    Raises UserError for a store that cannot be read, or whose rows are not what was written.
    """
    with reading(store) as connection:
        sums = checksums.stored(connection)
        if not any(sums.values()):  # an old store, which keeps none
            sums = {part: checksums.computed(connection, part) for part in checksums.OWNERS}
    rows = sorted((part, owner, total) for part, totals in sums.items() for owner, total in totals.items() if total)
    code = sorted((str(file), file.stat().st_mtime_ns) for file in Path(__file__).parent.rglob("*") if _draws(file))
    return blake2b(repr((store.name, __version__, rows, code)).encode(), digest_size=16).hexdigest()


def _draws(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts

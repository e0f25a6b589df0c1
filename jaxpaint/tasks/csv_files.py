"""CSV files: what a column holds is decided over the whole of it, because CSV itself does not say.

`datasets` guesses by pieces of a file, and takes `NA` or `null` for a hole, `007` for 7 and `true` for a number.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError, first_line

# As Python writes them, so that reading loses nothing.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_LIST = re.compile(r"""\s*(\[\s*['"\[{\]0-9-]|\{\s*['"}])""")
# NumPy's way, which Python would read as one text.
_NO_COMMA = re.compile(r"""['"\]]\s+['"\[]|\barray\(""")


def csv_options(files: Iterable[Path], texts: Collection[str] = ()) -> dict[str, Any]:
    """How `datasets` is to read CSV files that are parts of one table: options of its `csv` builder.

    A column is whole numbers, numbers, lists (each cell one of JSON or Python) or else text; those named by `texts`
    are text whatever they hold.

    Raises:
        UserError: a file that cannot be read, or lists that cannot.
    """
    cells: dict[str, list[str]] = {}
    for file in files:
        for column, values in _cells(file).items():
            cells.setdefault(column, []).extend(values)
    readers = {column: str if column in texts else _reader(column, values) for column, values in cells.items()}
    return {"converters": readers, "keep_default_na": False, "encoding": "utf-8-sig"}


def _cells(file: Path) -> dict[str, Sequence[str]]:
    import pandas

    try:
        table = pandas.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: it is not UTF-8 text; save it as UTF-8") from error
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"cannot read {file} as CSV: {first_line(error)}") from error
    return {str(column): table[column].tolist() for column in table.columns}


def _reader(column: str, cells: Sequence[str]) -> Callable[[str], Any]:
    if all(map(_WHOLE.fullmatch, cells)):
        return int
    if all(map(_NUMBER.fullmatch, cells)):
        return float
    if not all(map(_LIST.match, cells)):
        return str
    for row, cell in enumerate(cells, 1):
        try:
            listed(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise UserError(
                f"column {column!r}, row {row}: {cell[:60]!r} cannot be read as a list; CSV has none of its own: give "
                "JSON lines or Parquet"
            ) from error
    return listed


def listed(cell: str) -> Any:
    """A list or an object that a cell holds, as JSON or as Python writes it."""
    try:
        return json.loads(cell)
    except ValueError:
        if _NO_COMMA.search(cell):
            raise
        return ast.literal_eval(cell.strip())

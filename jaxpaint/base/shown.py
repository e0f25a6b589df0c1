"""Text from outside (names, paths, documents, what a model writes) where people see it: terminals, CSV, Markdown.

JSON needs none of this: it is exact and escapes by itself.
"""

from __future__ import annotations

import re
from typing import Any

# Control characters of both sets, what turns the direction of writing or breaks lines, and bytes that were no text.
_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f"
_TEXT, _NAME = re.compile(f"[{_OBEYED}]"), re.compile(rf"[{_OBEYED}\t\n]")
# What makes a formula of a cell in spreadsheets, the wide forms too.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_MARKUP = re.compile(r"[\\`\[\]<>|&]|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def visible(text: str) -> str:
    """`text` with what a terminal would obey, lines and tabs apart, as it is written in Python: `\\x1b`, `\\u202e`."""
    return _TEXT.sub(_escaped, text)


def visible_name(text: str) -> str:
    """As `visible`, on one line: of names, which have no lines."""
    return _NAME.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    # A byte of a file's name that is no UTF-8.
    return f"\\x{ord(character) - 0xDC00:02x}" if "\udc80" <= character <= "\udcff" else repr(character)[1:-1]


def csv_cell(value: Any) -> Any:
    """A value as it may stand in CSV: a text `visible`, with a `'` before what a spreadsheet would compute.

    Numbers stay. (A carriage return would end the row: Python's `csv` does not quote it.)
    """
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(_FORMULA) and not _is_number(value) else visible(value)


def markdown_cell(text: str) -> str:
    """A text as a cell of a Markdown table, where it is shown as it is: neither a column, HTML nor a link."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", visible_name(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()

"""Whole numbers as people write them: `4`, `0,2,4`, `0-14`, `0-14/2`, and mixtures by commas."""

from __future__ import annotations

import math
import re

from jaxpaint.base.documents import SHOWN_VALUE, shown
from jaxpaint.base.errors import UserError

MOST_NUMBERS = 100_000
LARGEST = 2**31 - 1  # which arrays of devices and samplers of seeds still take
EXPECTED = "numbers by commas such as 0,2,4, or a range such as 0-14 or 0-14/2"

_WHOLE = re.compile(r"[+-]?[0-9]+")
_PART = re.compile(r"(?P<first>[0-9]{1,20})(?:\s*-\s*(?P<last>[0-9]{1,20})(?:\s*/\s*(?P<step>[0-9]{1,20}))?)?")


def whole(text: str) -> int:
    """A whole number of any setting. Raises UserError for what is none, or too large for any."""
    if not _WHOLE.fullmatch(text.strip()):
        raise UserError(f"{shown(text)} is not a whole number")
    return within(text, LARGEST)


def within(text: str, most: int) -> int:
    """The number of digits, with a sign or without. Raises UserError for one beyond `most`, however many digits."""
    given = text.strip()
    digits = given.lstrip("+-").lstrip("0") or "0"
    # Python refuses to read some thousands of digits.
    if len(digits) > len(str(most)) or int(digits) > most:
        raise UserError(f"{_clipped(given)} is out of range; expected at most {most}")
    return -int(digits) if given.startswith("-") else int(digits)


def finite(text: str) -> float:
    """A number of any setting. Raises UserError for what is none, and for infinity and NaN."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise UserError(f"{_clipped(text)} is not a finite number")
    return value


def _clipped(digits: str) -> str:
    return digits if len(digits) <= SHOWN_VALUE else f"{digits[:SHOWN_VALUE]}…"


def parse_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a text, ascending, each once; a range's last number is part of it.

    Raises:
        UserError: not such a text, a range that runs backwards, or a step of 0; it quotes the part at fault.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if not match:
            raise UserError(f"{shown(part.strip())} is not a number or a range; expected {EXPECTED}")
        first, last, step = (int(value) if value else None for value in match.group("first", "last", "step"))
        assert first is not None
        if max(first, last or 0) > LARGEST:
            raise UserError(f"{part.strip()!r} is out of range; expected at most {LARGEST}")
        if step == 0:
            raise UserError(f"the step in {part.strip()!r} is 0; expected 1 or more")
        if last is not None and last < first:
            raise UserError(f"the range {part.strip()!r} runs backwards; write {last}-{first}")
        numbers = range(first, (first if last is None else last) + 1, step or 1)
        if len(numbers) + len(found) > MOST_NUMBERS:
            raise UserError(f"{part.strip()!r} makes more than {MOST_NUMBERS} numbers")
        found.update(numbers)
    return tuple(sorted(found))

"""Whole numbers as people write them: `4`, `0,2,4`, `0-14`, `0-14/2`, and mixtures by commas."""

from __future__ import annotations

import math
import re

from jaxpaint.base.errors import UserError

MOST_NUMBERS = 100_000
LARGEST = 2**31 - 1  # which arrays of devices and samplers of seeds still take
EXPECTED = "numbers by commas such as 0,2,4, or a range such as 0-14 or 0-14/2"

_PART = re.compile(r"(?P<first>[0-9]{1,20})(?:\s*-\s*(?P<last>[0-9]{1,20})(?:\s*/\s*(?P<step>[0-9]{1,20}))?)?")


def whole(text: str) -> int:
    """A whole number of any setting. Raises UserError for what is none, or too large for any."""
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{text!r} is not a whole number") from None
    if abs(value) > LARGEST:
        raise UserError(f"{text} is out of range; expected at most {LARGEST}")
    return value


def finite(text: str) -> float:
    """A number of any setting. Raises UserError for what is none, and for infinity and NaN."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise UserError(f"{text} is not a finite number")
    return value


def parse_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a text, ascending, each once; a range's last number is part of it.

    Raises:
        UserError: not such a text, a range that runs backwards, or a step of 0; it quotes the part at fault.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if not match:
            raise UserError(f"{part.strip()!r} is not a number or a range; expected {EXPECTED}")
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

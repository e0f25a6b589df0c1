"""Numbers with their nouns, and one short name for any content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from jaxpaint.base.errors import UserError


def count(number: int, noun: str) -> str:
    """ "1 plan", "2 plans", "1,234 plans"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def quantity(number: int) -> str:
    """ "812", "3.6K", "134.5M", "7.0B"."""
    for power, letter in ((9, "B"), (6, "M"), (3, "K")):
        if number >= 10**power:
            return f"{number / 10**power:.1f}{letter}"
    return str(number)


def digest(*parts: Any, sort_keys: bool = False) -> str:
    """128 bits that tell JSON values apart from others, in hexadecimal."""
    return text_digest(json.dumps(parts, sort_keys=sort_keys))


def text_digest(text: str) -> str:
    """128 bits that tell a text apart from others, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def require_characters(text: str, where: str) -> None:
    """Raises UserError for a text with half of a surrogate pair, which no file, JSON or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode-escape").decode()
        raise UserError(
            f"{where} has half of a surrogate pair, {half}, which is no character; leave it out, or decode the text "
            "with errors='replace'"
        ) from None


def gigabytes(size: int | None) -> str:
    """A size for reading."""
    if size is None:
        return "an unknown amount"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

"""Which part of a text each of its tokens makes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxpaint.base.errors import UserError


class Span(NamedTuple):
    """Characters of the text, from `begin` up to below `stop`; several tokens of one character have the same."""

    begin: int
    stop: int


def spans(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, tuple[Span, ...]]:
    """The text that tokens make up together, and each one's part of it.

    From beginnings of the text: alone, a token is decoded without the space before it, or as half a character.
    """
    whole = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    found: list[Span] = []
    begin = 0
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count], clean_up_tokenization_spaces=False)
        if whole.startswith(text) or count == len(tokens):
            stop = len(text) if count < len(tokens) else len(whole)
            found += [Span(begin, stop)] * (count - len(found))
            begin = stop
    return whole, tuple(found)


def places_of(tokenizer: Any, tokens: Sequence[int], part: str, behind: int = 0) -> tuple[int, ...]:
    """Where the tokens stand that have a character of `part`, the last time it occurs `behind` so many characters.

    Raises UserError for a part that is not there.
    """
    whole, own = spans(tokenizer, tokens)
    begin = whole.rfind(part, behind) if part else -1
    if begin < 0:
        raise UserError(f"{part!r} is not in the text as its tokens say it: {whole[behind:]!r}")
    stop = begin + len(part)
    return tuple(at for at, span in enumerate(own) if span.begin < stop and begin < span.stop)

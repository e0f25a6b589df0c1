"""Which part of a text each of its tokens makes up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count


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
    for number in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:number], clean_up_tokenization_spaces=False)
        if whole.startswith(text) or number == len(tokens):
            stop = len(text) if number < len(tokens) else len(whole)
            found += [Span(begin, stop)] * (number - len(found))
            begin = stop
    return whole, tuple(found)


def places_of(tokenizer: Any, tokens: Sequence[int], part: str, behind: int = 0) -> tuple[int, ...]:
    """Where the tokens stand that make up `part`, the last time it occurs `behind` so many characters.

    Where it never is whole tokens, those that have a character of it. Raises UserError for a part that is not there.
    """
    found = _found(tokenizer, tokens, part, behind)
    if found.nothing:
        raise UserError(f"{part!r} is not in the text as its tokens say it: {found.text[behind:]!r}")
    return (found.whole or found.torn)[-1]


def all_places_of(tokenizer: Any, tokens: Sequence[int], part: str, behind: int = 0) -> tuple[int, ...]:
    """As `places_of`, of all times that it occurs."""
    found = _found(tokenizer, tokens, part, behind)
    if found.nothing:
        raise UserError(f"{part!r} is not in the text as its tokens say it: {found.text[behind:]!r}")
    return tuple(sorted({at for places in found.whole or found.torn for at in places}))


def places_named(tokenizer: Any, tokens: Sequence[int], name: str) -> tuple[int, ...]:
    """Where the tokens stand that make up a part of the text: `lumor`, or of several `lumor#1`, `lumor#2`, `lumor#all`.

    Whole words if it occurs as such, else whole tokens. Raises UserError for a part that is not there, or only within
    tokens, and for one that occurs several times without a number.
    """
    found, which = _found(tokenizer, tokens, name), ""
    if found.nothing and (match := re.fullmatch(r"(.+)#(\d+|all)", name, re.DOTALL)):
        name, which = match[1], match[2]
        found = _found(tokenizer, tokens, name)
    if found.nothing:
        raise UserError(f"{name!r} is not in the text as its tokens say it: {found.text!r}")
    if not found.whole:
        own = "".join(found.text[span.begin : span.stop] for span in sorted({found.spans[at] for at in found.torn[-1]}))
        raise UserError(
            f"{name!r} is no whole tokens of the text, only within {own.strip()!r}; name that, or other words"
        )
    times = len(found.whole)
    if which == "all":
        return tuple(sorted({at for places in found.whole for at in places}))
    if which and not 1 <= int(which) <= times:
        raise UserError(f"{name!r} is {count(times, 'time')} in the text; there is no {name}#{which}")
    if not which and times > 1:
        raise UserError(f"{name!r} is {times} times in the text; say which: {name}#1 to {name}#{times}, or {name}#all")
    return found.whole[int(which or 1) - 1]


class _Found(NamedTuple):
    """Of a part of a text: its occurrences as `whole` tokens, by positions, and those that begin or end within one."""

    text: str
    spans: tuple[Span, ...]
    whole: tuple[tuple[int, ...], ...]
    torn: tuple[tuple[int, ...], ...]

    @property
    def nothing(self) -> bool:
        return not self.whole and not self.torn


def _found(tokenizer: Any, tokens: Sequence[int], part: str, behind: int = 0) -> _Found:
    """Occurrences one behind the other; whole words alone, where there are any."""
    text, own = spans(tokenizer, tokens)
    # A token's spaces need not be named.
    begins = {at for span in own for at in range(span.begin, _first_letter(text, span) + 1)}
    stops = {span.stop for span in own}
    whole: list[tuple[int, ...]] = []
    words: list[tuple[int, ...]] = []
    torn: list[tuple[int, ...]] = []
    begin = text.find(part, behind) if part else -1
    while begin >= 0:
        stop = begin + len(part)
        places = tuple(at for at, span in enumerate(own) if span.begin < stop and begin < span.stop)
        fits = begin in begins and stop in stops
        (whole if fits else torn).append(places)
        if fits and not _within_word(text, begin) and not _within_word(text, stop):
            words.append(places)
        begin = text.find(part, stop)
    return _Found(text, own, tuple(words or whole), tuple(torn))


def _first_letter(text: str, span: Span) -> int:
    own = text[span.begin : span.stop]
    return span.begin + len(own) - len(own.lstrip())


def _within_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()

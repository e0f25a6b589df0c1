"""OpenAI's shapes of what a model wrote and how it scored: choices, log-probabilities, usage, errors."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.engine.token_scores import TokenScores
from jaxpaint.generation import Continuation
from jaxpaint.generation.text import finished_text, stopped

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's
FINISHED = {"end": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True)
class Written:
    """A text after a prompt: its tokens, that which ended it included where there is one, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str


def written(tokenizer: Any, found: Continuation, stop: Sequence[str]) -> Written:
    """Raises UserError for logits that were no numbers."""
    if found.ending == "not finite":
        raise UserError("NaN or infinite logits under this plan; nothing can be written with them")
    text = finished_text(tokenizer, found.tokens, stop)
    tokens = found.tokens
    if found.ending == "stop":  # tokens are written in stretches, and some may lie beyond the stop string
        tokens = _until(tokenizer, tokens, stop)
    return Written(text, tokens if found.end is None else (*tokens, found.end), FINISHED[found.ending])


def _until(tokenizer: Any, tokens: tuple[int, ...], stop: Sequence[str]) -> tuple[int, ...]:
    """The tokens up to the one with which a stop string is whole."""
    return tokens[: bisect_left(range(len(tokens)), True, key=lambda size: stopped(tokenizer, tokens[:size], stop))]


def logprobs(
    tokenizer: Any, tokens: Sequence[int], scores: TokenScores, best: int, first: int = 0
) -> dict[str, list[Any]]:
    """The completions' `logprobs` of `tokens[first:]`, with the `best` most likely and the token itself at each place.

    `scores` are of the tokens, or of those but the last one: then it is taken to be the most likely. A text's first
    token has none. Raises UserError for logits that were no numbers.
    """
    own = [None, *map(float, scores.logprobs)]
    if len(tokens) > len(own):
        own.append(float(scores.best_logprobs[-1, 0]))
    if not all(value is None or math.isfinite(value) for value in own):
        raise UserError("NaN or infinite logits under this plan; there is no score")
    words = [_word(tokenizer, token) for token in tokens]
    tops = [None, *(_top(tokenizer, tokens, place, own, scores, best) for place in range(1, len(tokens)))]
    offsets = [0, *np.cumsum([len(word) for word in words]).tolist()]
    return {
        "tokens": words[first:],
        "token_logprobs": own[first:],
        "top_logprobs": tops[first:],
        "text_offset": offsets[first:-1],
    }


def _top(
    tokenizer: Any, tokens: Sequence[int], place: int, own: Sequence[float | None], scores: TokenScores, best: int
) -> dict[str, float]:
    value = own[place]
    assert value is not None
    is_last = place > len(scores.logprobs)
    is_greedy = is_last or bool(scores.is_greedy[place - 1])
    found: dict[str, float] = {}
    own_word = _word(tokenizer, tokens[place])
    others = zip(scores.best[place - 1, :best], map(float, scores.best_logprobs[place - 1]), strict=False)
    for token, other in others:
        if token != tokens[place]:
            # A client takes a token to be greedy where its number is the largest: the last bit, in which two ways of
            # adding up differ, must not say otherwise than the logits.
            first = not found
            sure = min(other, value) if is_greedy else max(other, math.nextafter(value, math.inf)) if first else other
            word = _word(tokenizer, int(token))
            # Two tokens may be one text: the other one is told as the vocabulary spells it.
            word = _piece(tokenizer, int(token)) if word == own_word or word in found else word
            found.setdefault(word, sure)
    return {own_word: value, **found}


def _word(tokenizer: Any, token: int) -> str:
    """A token's text, its space included; where that is part of a character alone, as the vocabulary spells it."""
    text, piece = tokenizer.decode([token], skip_special_tokens=False), _piece(tokenizer, token)
    if "\N{REPLACEMENT CHARACTER}" in text:
        return piece
    # SentencePiece's decoders take the space off a text's first word.
    return piece.replace(SPACE, " ") if piece.startswith(SPACE) else text


def _piece(tokenizer: Any, token: int) -> str:
    """As the vocabulary spells it; models may have more entries than their tokenizer."""
    return tokenizer.convert_ids_to_tokens(token) or f"<{token}>"


def usage(prompts: Iterable[Sequence[int]], texts: Iterable[Sequence[int]]) -> dict[str, int]:
    before, after = sum(map(len, prompts)), sum(map(len, texts))
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}

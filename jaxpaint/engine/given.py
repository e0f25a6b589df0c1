"""What users give to a model, texts or token ids, as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from jaxpaint.base.errors import UserError
from jaxpaint.engine.rows import Inputs, checked_inputs, checked_texts
from jaxpaint.models.family import Config

Given: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]] | ArrayLike
"""A text, several, token ids of several, which need not be equally many, or an array of them [B, S]."""


def inputs_of(
    config: Config, tokenizer: Any, given: Given, lengths: ArrayLike | None = None, token_types: ArrayLike | None = None
) -> Inputs:
    """The rows, right-padded; `tokenizer()` is asked only for texts, which it encodes with its own special tokens.

    Raises:
        UserError: no text, an empty one, ids beyond the vocabulary, more tokens than the model has positions, lengths
            or token types that do not fit.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Sequence) and any(isinstance(each, str) for each in given):
        if lengths is not None or token_types is not None:
            raise UserError("texts have lengths of their own, and no token types; give token ids with those")
        encode = tokenizer().encode
        given = [encode(text, verbose=False) if isinstance(text, str) else text for text in given]
        for number, tokens in enumerate(given, 1):
            if not tokens:
                raise UserError(f"text {number} of {len(given)} is empty; give at least one token")
    if isinstance(given, Sequence) and _are_ragged(given):
        if lengths is not None or token_types is not None:
            raise UserError("rows of unequal lengths need no lengths, and have no token types: pad them for these")
        texts = checked_texts(given, config)  # type: ignore[arg-type]
        rows = np.zeros((len(texts), max(map(len, texts))), np.int32)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = text
        return checked_inputs(config, rows, np.array([len(text) for text in texts]), None)
    try:
        rows = np.asarray(given)
    except ValueError:  # a row that is a number among rows
        raise UserError(f"tokens must be [batch, seq] integers, not {str(given)[:60]}") from None
    return checked_inputs(config, rows, lengths, token_types)


def _are_ragged(given: Sequence[Any]) -> bool:
    return len({len(each) for each in given if hasattr(each, "__len__")}) > 1

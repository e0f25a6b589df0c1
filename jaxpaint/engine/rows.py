"""What a model is given to read: right-padded rows of token ids, checked, and texts in such rows of few shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Config

if TYPE_CHECKING:
    from jax.typing import ArrayLike

Tokens = Int[np.ndarray, " tokens"]


class Inputs(NamedTuple):
    """Rows of texts; `token_types`, None where all are 0, tell the two texts of a pair apart (BERT).

    Of images `tokens` are the pixels of [CLS] (none: zeros) and of each patch (`jaxpaint.engine.patches`).
    """

    tokens: Int[np.ndarray, "B S"] | Float[np.ndarray, "B S pixels"]
    lengths: Int[np.ndarray, " B"]
    token_types: Int[np.ndarray, "B S"] | None


def checked_inputs(
    config: Config, tokens: ArrayLike, lengths: ArrayLike | None, token_types: ArrayLike | None
) -> Inputs:
    """The rows as int32 arrays; without `lengths` none of them is padded.

    Raises:
        UserError: tokens that are not [batch, seq] integers within the vocabulary, more than the model has positions,
            lengths or token types that do not fit.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or tokens.size == 0:
        raise UserError(f"tokens must be [batch, seq] integers, not {tokens.dtype} of shape {tokens.shape}")
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise UserError(
            f"token ids span {tokens.min()} to {tokens.max()}, but the vocabulary has {config.vocab_size} entries"
        )
    if tokens.shape[1] > config.max_position_embeddings:
        raise UserError(
            f"{tokens.shape[1]} positions are more than the model's {config.max_position_embeddings}; shorten the text"
        )
    lengths = np.full(tokens.shape[0], tokens.shape[1]) if lengths is None else np.asarray(lengths)
    if lengths.shape != tokens.shape[:1] or lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        raise UserError(f"lengths must be {tokens.shape[0]} numbers from 1 to {tokens.shape[1]}, not {lengths}")
    types = None if token_types is None else _checked_types(config, np.asarray(token_types), tokens.shape)
    return Inputs(tokens.astype(np.int32), lengths.astype(np.int32), types)


def _checked_types(config: Config, token_types: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    known = config.capabilities.token_types
    if not known:
        raise UserError(f"a {config.model_type} model has no token types; leave token_types out")
    if token_types.shape != shape or not np.issubdtype(token_types.dtype, np.integer):
        raise UserError(
            f"token_types must be integers of the tokens' shape {shape}, not {token_types.dtype} of {token_types.shape}"
        )
    if token_types.min() < 0 or token_types.max() >= known:
        raise UserError(f"token_types span {token_types.min()} to {token_types.max()}, but the model has {known}")
    return token_types.astype(np.int32)


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts of the given lengths, those with the indices `texts` in the first rows; others are padding of length 1."""

    tokens: Int[np.ndarray, "B S"]
    lengths: Int[np.ndarray, " B"]
    texts: tuple[int, ...]

    @property
    def real_rows(self) -> int:
        """How many rows hold a text."""
        return len(self.texts)


def checked_texts(texts: Sequence[Sequence[int]], config: Config) -> list[Tokens]:
    """The texts as arrays.

    Raises:
        UserError: no text, an empty one, token ids outside the vocabulary, more tokens than the model has positions.
    """
    if not len(texts):
        raise UserError("there is no text to run; give at least one, as a list of token ids")
    checked = []
    for number, text in enumerate(texts, 1):
        which = f"text {number} of {len(texts)}"
        tokens = np.asarray(text)
        if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(
                f"{which} must be a list of one or more token ids, not {tokens.dtype} of shape {tokens.shape}"
            )
        if tokens.min() < 0 or tokens.max() >= config.vocab_size:
            raise UserError(
                f"{which} has token ids {tokens.min()} to {tokens.max()}, but the vocabulary has "
                f"{config.vocab_size} entries"
            )
        if len(tokens) > config.max_position_embeddings:
            raise UserError(
                f"{which} has {len(tokens)} tokens, more than the model's {config.max_position_embeddings} "
                "positions; shorten it"
            )
        checked.append(tokens.astype(np.int32))
    return checked


def right_padded(
    texts: Sequence[Tokens], batch_tokens: int, rows_multiple: int = 1, shortest: int = 32
) -> Iterator[TextRows]:
    """Batches of at most `batch_tokens` positions, but at least one row, shortest texts first.

    All batches of a row length, the least of which is `shortest`, have one shape; their number of rows is a multiple of
    `rows_multiple`, the number of devices that share the rows.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        by_length[_row_length(len(texts[index]), shortest)].append(index)
    for length, group in by_length.items():
        most = max(1, batch_tokens // length // rows_multiple) * rows_multiple
        batches = -(-len(group) // most)
        height = -(-len(group) // batches // rows_multiple) * rows_multiple
        for start in range(0, len(group), height):
            members = group[start : start + height]
            tokens, lengths = np.zeros((height, length), np.int32), np.ones(height, np.int32)
            for row, index in enumerate(members):
                tokens[row, : len(texts[index])], lengths[row] = texts[index], len(texts[index])
            yield TextRows(tokens, lengths, tuple(members))


def _row_length(tokens: int, step: int) -> int:
    """Steps that grow to a quarter of the length: little padding, few shapes."""
    while step * 4 < tokens:
        step *= 2
    return -(-tokens // step) * step

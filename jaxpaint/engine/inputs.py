"""What a model is given to read: right-padded rows of token ids, checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Config


class Inputs(NamedTuple):
    """Rows of texts; `token_types`, None where all are 0, tell the two texts of a pair apart (BERT)."""

    tokens: Int[np.ndarray, "B S"]
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

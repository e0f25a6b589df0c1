"""What the decoder families share: a batch's context, the output head."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.models import attention as ops

# Of one layer's tokens, each [B, S, K, H].
KeysValues: TypeAlias = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]


class Context(NamedTuple):
    """What every layer of one batch shares: rotary tables and the visibility mask."""

    cos: Float[Array, "B S 1 rotary"]
    sin: Float[Array, "B S 1 rotary"]
    mask: Bool[Array, "B 1 S keys"]


def context(
    positions: Int[Array, "B S"],
    visible_until: Int[Array, "B S"],
    frequencies: Float[np.ndarray, " half"],
    sliding_window: int | None,
    lookback: int,
) -> Context:
    """What the layers need to know of a batch's layout; see `ops.visibility`."""
    cos, sin = ops.rope_tables(positions, frequencies)
    return Context(cos, sin, ops.visibility(positions, visible_until, sliding_window, lookback))


def row_layout(lengths: Int[Array, " B"], size: int) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """Positions and `visible_until` of rows of `size` that each hold one right-padded text."""
    index = jnp.broadcast_to(jnp.arange(size), (lengths.shape[0], size))
    return index, jnp.where(index < lengths[:, None], size, index + 1)


def logits(model: Any, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """Next-token logits in float32 of hidden states taken before the final norm."""
    normed = model.norm(hidden.reshape(-1, hidden.shape[-1]))
    return model.vocabulary_logits(normed, 0, model.config.vocab_size).T.reshape(*hidden.shape[:-1], -1)


def vocabulary_logits(
    embed: nnx.Embed, lm_head: nnx.Linear | None, normed: Float[Array, "M D"], first: Any, size: int
) -> Float[Array, "size M"]:
    """Logits in float32 of `size` tokens from id `first` on; without a head, the embedding is it.

    The vocabulary is the leading axis: the layout in which CPUs multiply it fastest.
    """
    if lm_head is None:
        kernel = jax.lax.dynamic_slice_in_dim(embed.embedding[...], first, size)
    else:
        kernel = jax.lax.dynamic_slice_in_dim(lm_head.kernel[...], first, size, axis=1).T
    return jnp.matmul(kernel, normed.T, preferred_element_type=jnp.float32)

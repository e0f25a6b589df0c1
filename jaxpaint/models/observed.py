"""What is seen of one layer as it runs, and what is changed in it: data, so that one executable serves all changes."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpaint.models.attention import capped
from jaxpaint.models.narrow import widened

Found: TypeAlias = Literal["reads", "attention", "values", "attention_out", "mlp_out"]
"""What a layer reads [B, S, D]; its attention's weights [B, N, S, S] in float32 and values [B, S, K, H]; and what its
attention and its feed-forward add to the hidden state [B, S, D], of encoders before the norm that follows."""
Asked: TypeAlias = Set[Found]
Edges: TypeAlias = Bool[Array, "B heads S S"]
"""From queries to keys, in every head or the same in all."""


class Edit(NamedTuple):
    """Of what a sublayer gives, y: `scale * y + value`, token by token."""

    scale: Float[Array, "*events B S"]
    value: Float[Array, "*events B S D"] | None


class Edits(NamedTuple):
    """What is changed in a layer: blocked edges from queries to keys, and what its sublayers give."""

    blocked: Bool[Array, "*events B heads S S"] | None = None
    attention: Edit | None = None
    mlp: Edit | None = None


def edited(y: Float[Array, "B S D"], edit: Edit | None) -> Float[Array, "B S D"]:
    """`y` after the edit, if there is one."""
    if edit is None:
        return y
    scaled = edit.scale[..., None] * y.astype(jnp.float32)
    return (scaled if edit.value is None else scaled + edit.value).astype(y.dtype)


def only(asked: Asked, **found: Array) -> dict[str, Array]:
    """Of what was found what is asked for."""
    return {name: value for name, value in found.items() if name in asked}


def observed_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 S S"],
    blocked: Edges | None,
    asked: Asked,
    cap: float | None = None,
    bias: Float[Array, "#B N S S"] | None = None,
) -> tuple[Float[Array, "B S N H"], dict[str, Array]]:
    """`jaxpaint.models.attention.attention` with its weights. A query of which every key is blocked gives zeros.

    It always holds the weights of all heads: they are what it is for.
    """
    batch, length, heads, head_dim = query.shape
    visible = mask if blocked is None else mask & ~blocked
    query = query.reshape(batch, length, key.shape[2], -1, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32) * head_dim**-0.5
    scores = capped(scores, cap).reshape(batch, heads, length, length)
    scores = scores if bias is None else scores + bias
    weights = jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jnp.where(visible, weights, 0.0)
    shared = weights.astype(value.dtype).reshape(batch, key.shape[2], -1, length, length)
    mixed = jnp.einsum("bkgts,bskh->btkgh", *widened(shared, value), preferred_element_type=jnp.float32)
    mixed = mixed.astype(value.dtype).reshape(batch, length, heads, head_dim)
    return mixed, only(asked, attention=weights, values=value)

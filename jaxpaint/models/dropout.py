"""Dropout as a pure function of a key, for models that train."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DRAWS = 1 << 16


class Dropout(NamedTuple):
    """What to draw masks with: the share of elements to drop, and a key of its own for every mask."""

    rate: float
    key: Array


def dropout(x: Float[Array, "*shape"], drawn: Dropout | None) -> Float[Array, "*shape"]:
    """`x` with elements set to 0 at random and the others scaled up to keep the mean; `x` itself without `drawn`.

    Random bits are what dropout costs, so 16 of them decide about an element: a rate is kept to within 1 / 131072.
    """
    dropped = round(drawn.rate * DRAWS) if drawn else 0
    if drawn is None or dropped == 0:
        return x
    words = jax.random.bits(drawn.key, ((x.size + 1) // 2,), jnp.uint32)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(draws >= dropped, x * (DRAWS / (DRAWS - dropped)), 0)

"""Dropout as a pure function of a key, for models that train."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32


class Dropout(NamedTuple):
    """What to draw masks with: the share of elements to drop, and a key of its own for every mask."""

    rate: float
    key: Array


def dropout(x: Float[Array, "*shape"], drawn: Dropout | None) -> Float[Array, "*shape"]:
    """`x` with elements set to 0 at random and the others scaled up to keep the mean; `x` itself without `drawn`.

    For at most 2^32 elements. Where a mask is used, on the way back too, it is made again from the key: hashing an
    element's number costs less than to keep the mask, or to draw it from `jax.random` (docs/log.md).
    """
    if drawn is None or drawn.rate == 0:
        return x
    return _dropped(x, jax.random.bits(drawn.key, (2,), jnp.uint32), drawn.rate)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropped(x: Array, seeds: UInt32[Array, " 2"], rate: float) -> Array:
    return jnp.where(_kept(x.shape, seeds, rate), x * (1 / (1 - rate)), 0)


def _forth(x: Array, seeds: Array, rate: float) -> tuple[Array, Array]:
    return _dropped(x, seeds, rate), seeds


def _back(rate: float, seeds: Array, gradient: Array) -> tuple[Array, None]:
    return _dropped(gradient, seeds, rate), None


_dropped.defvjp(_forth, _back)


def _kept(shape: tuple[int, ...], seeds: UInt32[Array, " 2"], rate: float) -> Bool[Array, "*shape"]:
    """Wellons' `lowbias32` of the elements' numbers, with a seed before each of its products."""
    bits = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape) ^ seeds[0]
    bits = (bits ^ bits >> 16) * np.uint32(0x7FEB352D) + seeds[1]
    bits = (bits ^ bits >> 15) * np.uint32(0x846CA68B)
    return (bits ^ bits >> 16) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))

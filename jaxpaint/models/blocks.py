"""Blocks stacked along a leading layer axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def stacked(make: Callable[..., nnx.Module], count: int, key: jax.Array) -> Any:
    """One block, of `make(rngs=...)`, whose parameters are those of `count` random ones along a leading layer axis."""

    def one(key: jax.Array) -> Any:
        return nnx.split(make(rngs=nnx.Rngs(key)))[1]

    graphdef = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))[0]
    return nnx.merge(graphdef, jax.vmap(one)(jax.random.split(key, count)))

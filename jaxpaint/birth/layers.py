"""Parameters of a model whose layers are stacked along a leading axis, and what is read off a single layer."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Float

Parameters: TypeAlias = dict[str, Any]
NEVER = 2**31 - 1  # the step at which what is never trained is released


def of_layer(parameters: Parameters, index: int) -> Parameters:
    """One layer's parameters."""
    return jax.tree.map(lambda leaf: leaf[index], parameters["layers"])


def feed_forward(layer: Parameters, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """F(x), a matrix or a ReLU network, without the residual; of a layer that has one."""
    if "feed_forward" in layer:
        return x @ layer["feed_forward"].T
    return jax.nn.relu(x @ layer["feed_forward_in"]) @ layer["feed_forward_out"]

"""Layers' matrix products by a processor's tiles (`jaxpaint.tiles`), where they gain."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxpaint import tiles
from jaxpaint.models.narrow import dot_general

UNSAID = np.uint32(0xFFFF)  # of a float32's bits, those that bfloat16 has no room for


def gain_by_tiles(layers: Any) -> bool:
    """Whether layers of these parameters gain: on such a processor, kernels of float32 that are whole in bfloat16.

    The first layer tells, or the first row of each that lies apart. Others are multiplied as exactly, no faster.
    """
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(layers)
        if any(getattr(key, "key", None) == "kernel" for key in path)
    ]
    return tiles.are_here() and all(
        leaf.dtype == np.float32 and not np.any(np.asarray(leaf)[0].view(np.uint32) & UNSAID) for leaf in kernels
    )


def use_tiles(layers: nnx.Module) -> None:
    """Lets the linear layers inside multiply by tiles where `jaxpaint.tiles.multiplies`."""
    for _, module in nnx.iter_modules(layers):
        if isinstance(module, nnx.Linear):
            module.dot_general = _dot_general


def _dot_general(left: Array, right: Array, dimensions: Any, **how: Any) -> Array:
    return tiles.product(left, right) if tiles.multiplies(left, right) else dot_general(left, right, dimensions, **how)

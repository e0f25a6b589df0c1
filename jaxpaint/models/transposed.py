"""Kernels as [out, in], in which XLA's library on a CPU multiplies a few rows soonest: it reads them as they lie.

As [in, out] it lays each out anew before it multiplies, which takes longer than the products of a few rows: 8 rows of
2048 numbers by 5632 took 2.5 times as long in float32 and 4.8 times in bfloat16 on an Intel Xeon (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.compilation import jit
from jaxpaint.models.narrow import moved, product_by_rows


class TransposedLinear(nnx.Module):
    """As `flax.nnx.Linear`, its parameters by the same names, its kernel [out, in]."""

    def __init__(self, linear: nnx.Linear):
        self.kernel, self.bias = linear.kernel, linear.bias

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        found = product_by_rows(self.kernel[...], rows.T).T.astype(x.dtype).reshape(*x.shape[:-1], -1)
        return found if self.bias is None else found + self.bias[...]


def with_transposed_kernels(graphdef: Any, state: Any) -> Any:
    """The graph of a model's state whose layers' kernels have been transposed."""
    model = nnx.merge(graphdef, state)
    for _, module in list(nnx.iter_modules(model.blocks)):  # type: ignore[attr-defined]
        for name, part in list(vars(module).items()):
            if isinstance(part, nnx.Linear):
                setattr(module, name, TransposedLinear(part))
    return nnx.split(model)[0]


def transposed_kernels(layers: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """Parameters with their kernels transposed; a leaf is one of all layers'."""

    def leaf(path: Any, parameter: Any) -> Any:
        is_kernel = any(getattr(key, "key", None) == "kernel" for key in path)
        return jax.tree.map(_transposed, parameter) if is_kernel else parameter

    return jax.tree_util.tree_map_with_path(leaf, layers, is_leaf=is_leaf)


@jit()
def _transposed(kernel: Array) -> Array:
    return moved(lambda x: jnp.swapaxes(x, -1, -2), kernel)

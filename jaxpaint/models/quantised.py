"""Weights in fewer bits: kernels of the layers as integers with float32 scales, turned back inside each product.

Symmetric, rounded to nearest: int8 with a scale for each output feature, int4 with one for each `GROUP` input features
of it. Embeddings, norms, biases and heads stay as they are. Activations are not quantised.

An int4 kernel is kept [of a group, groups, out]: a group is every so manieth input feature, so that its scales lie as
the integers do, and a TPU multiplies with both as it reads them (docs/quantised.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.precision import ROUTERS, Weights

# Input features that share a scale in int4: fewer hurt less, and cost memory.
GROUP = 32


def weights_of(parameters: Any) -> Weights:
    """What the kernels of a tree of parameters are kept in."""
    names = {leaf.dtype.name for leaf in jax.tree.leaves(parameters)}
    return "int8" if "int8" in names else "int4" if "int4" in names else "float"


def group_size(features: int, weights: Weights) -> int:
    """How many input features share a scale: all, or the largest part of `GROUP` that divides them."""
    return features if weights == "int8" else math.gcd(features, GROUP)


def kernel_bytes(shape: tuple[int, ...], weights: Weights) -> int:
    """Of a kernel [..., features, out], with its scales where it is quantised, else in bfloat16."""
    numbers = math.prod(shape)
    if weights == "float":
        return 2 * numbers
    return numbers // (1 if weights == "int8" else 2) + 4 * numbers // group_size(shape[-2], weights)


def stored_bytes(leaf: Any) -> int:
    """Of an array or its shape: devices hold two int4 in a byte."""
    return leaf.size // 2 if leaf.dtype.name == "int4" else leaf.size * leaf.dtype.itemsize


def quantised(
    kernel: Float[Array, "*layers features out"], weights: Weights
) -> tuple[Int[Array, "*layers_sizes out"], Float[Array, "*layers_groups out"]]:
    """Integers and the scales that `dequantised` multiplies them with: off by half a scale at most.

    int8: [..., features, out] and [..., out]; int4: [..., of a group, groups, out] and [..., groups, out]. A scale is 1
    where all that it is for are zeros.
    """

    def one(kernel: Float[Array, "features out"]) -> tuple[Array, Array]:
        if weights == "int4":
            kernel = kernel.reshape(group_size(len(kernel), weights), -1, kernel.shape[-1])
        kernel = kernel.astype(jnp.float32)
        scale = jnp.abs(kernel).max(axis=0) / (127 if weights == "int8" else 7)
        scale = jnp.where(scale == 0, 1, scale)
        return jnp.rint(kernel / scale).astype(jnp.int8), scale

    def each(kernel: Float[Array, "*layers features out"]) -> tuple[Array, Array]:
        return jax.lax.map(each, kernel) if kernel.ndim > 2 else one(kernel)

    # Layer by layer: a stack in float32 is larger than all else. A loop that writes int4 copies all of it each time.
    values, scale = each(kernel)
    return values.astype(weights), scale


def dequantised(
    values: Int[Array, "*layers_sizes out"], scale: Float[Array, "*layers_groups out"]
) -> Float[Array, "*layers features out"]:
    """The kernel [..., features, out] in float32."""
    core = 3 if values.dtype == jnp.int4 else 2
    kernel = values.astype(jnp.float32) * jnp.expand_dims(scale, values.ndim - core)
    return kernel.reshape(*values.shape[:-core], -1, values.shape[-1])


def quantised_at(path: str, kernel: Array, weights: Weights, sharding: Any) -> dict[str, Array]:
    """The integers and scales of the kernel at `path`, by path, each on the devices that `sharding` says."""
    paths = path, path.removesuffix("kernel") + "scale"
    shapes = jax.eval_shape(lambda kernel: quantised(kernel, weights), kernel)
    placed = (
        sharding(path, leaf.shape) if callable(sharding) else sharding for path, leaf in zip(paths, shapes, strict=True)
    )
    lower = jax.jit(lambda kernel: quantised(kernel, weights), out_shardings=tuple(placed))
    return dict(zip(paths, jax.block_until_ready(lower(kernel)), strict=True))


class QuantisedLinear(nnx.Module):
    """As `flax.nnx.Linear`, of a kernel in integers."""

    def __init__(self, linear: nnx.Linear, weights: Weights):
        values, scale = quantised(linear.kernel[...], weights)
        self.kernel, self.scale = nnx.Param(values), nnx.Param(scale)
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch out"]:
        values, scale = self.kernel[...].astype(x.dtype), self.scale[...]
        if values.ndim == 2:  # the scales come after the product, where there is less to multiply
            found = (jnp.matmul(x, values) * scale).astype(x.dtype)
        else:
            # Else groups reach into what comes before, and a TPU's compiler turns whole stacks of its kernels for them.
            grouped = jax.lax.optimization_barrier(x).reshape(*x.shape[:-1], *values.shape[:2])
            found = jnp.einsum("...ig,igo->...o", grouped, values * scale.astype(x.dtype))
        return found if self.bias is None else found + self.bias[...]


def quantise_layers(model: nnx.Module, weights: Weights) -> None:
    """Puts integers in the place of the kernels of a model's layers."""
    if weights == "float":
        return
    for _, module in list(nnx.iter_modules(model.blocks)):  # type: ignore[attr-defined]
        for name, linear in list(_linears(module)):
            setattr(module, name, QuantisedLinear(linear, weights))


def _linears(module: nnx.Module) -> Iterator[tuple[str, nnx.Linear]]:
    linears = ((name, part) for name, part in vars(module).items() if isinstance(part, nnx.Linear))
    return ((name, part) for name, part in linears if name not in ROUTERS)

"""Kernels as a processor's tiles read them (`jaxpaint.tiles`): bfloat16, which multiplies float32 exactly, too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from jaxpaint import tiles

HEAD = "tiled_head"
HEADS = "lm_head/kernel", "embed/embedding"  # what it is a copy of: the first that there is


@partial(jax.tree_util.register_dataclass, data_fields=["stack", "index"], meta_fields=[])
@dataclass(frozen=True)
class OfStack:
    """A layer's kernel where it lies among those of others: it is read there, not copied first."""

    stack: tiles.Packed
    index: Int[Array, ""]


class TiledLinear(nnx.Module):
    """As `flax.nnx.Linear`, its parameters by the same names, its kernel packed."""

    def __init__(self, linear: nnx.Linear, kernel: Any):
        self.kernel, self.bias = nnx.Param(kernel), linear.bias

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch out"]:
        found = product(x, self.kernel.get_value(), x.dtype)
        return found if self.bias is None else found + self.bias[...]


def product(
    x: Float[Array, "*batch inner"], kernel: tiles.Packed | OfStack, dtype: Any = jnp.float32
) -> Float[Array, "*batch columns"]:
    """`x @ kernel`, added up in float32."""
    if not isinstance(kernel, OfStack):
        kernel = OfStack(kernel[None], jnp.int32(0))
    return tiles.product(x, kernel.stack, kernel.index, dtype)


def columns_product(
    x: Float[Array, "*batch inner"], kernel: tiles.Packed, first: Any, size: int
) -> Float[Array, "*batch size"]:
    """`x @ kernel[:, first : first + size]`, of multiples of 32; the first may be traced."""
    first, size = first // tiles.MULTIPLE, size // tiles.MULTIPLE
    if size == len(kernel):
        return product(x, kernel)
    return product(x, jax.lax.dynamic_slice_in_dim(kernel, first, size))


def stored_tiles(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What `jaxpaint.models.checkpoint.restore` is told of a model and its store's tensors, where tiles can be used.

    That is which kernels are packed as they are read, being bfloat16 in the store or the model, and bytes for the
    head's copy.
    """
    linears = {path: linear.kernel.get_value() for path, _, _, linear in _linears(model)}
    narrow = {path for path, leaf in linears.items() if "bfloat16" in (leaf.dtype.name, tensors[path]["dtype"])}
    packed = {path for path in narrow if tiles.packs(linears[path])}
    if not packed or not tiles.are_here():
        return {}
    head = next((tensors[path]["shape"] for path in HEADS if path in tensors), ())
    return {"packed": packed, "beside": 2 * math.prod(head) if hasattr(model, HEAD) else 0}


def with_tiles(model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters for the model, whose layers' kernels are packed where they are whole in bfloat16, and its head.

    The model's modules become those that multiply by them. Nothing changes where this process cannot use tiles.
    """
    flat = flatten_dict(parameters, sep="/")
    for path, module, name, linear in list(_linears(model)):
        if _gains(flat[path]):
            flat[path] = tiles.packed(flat[path])
        if tiles.is_packed(flat[path]):
            setattr(module, name, TiledLinear(linear, flat[path]))
    path = next((path for path in HEADS if path in flat), "")
    if hasattr(model, HEAD) and model.config.capabilities.lm_head and _gains(flat[path]):
        flat[HEAD] = tiles.packed(flat[path]) if path == HEADS[0] else _packed_rows(flat[path])
        setattr(model, HEAD, nnx.data(nnx.Param(flat[HEAD])))
    return unflatten_dict(flat, sep="/")


def are_tiled(layers: Any) -> bool:
    """Whether some of the layers' kernels are packed."""
    return any(map(tiles.is_packed, jax.tree.leaves(layers)))


def all_tiled(layers: Any) -> bool:
    """Whether all kernels of layers in stacks are packed: then a layer is read where it lies in them."""
    leaves = jax.tree.leaves(layers)
    return are_tiled(leaves) and all(tiles.is_packed(leaf) for leaf in leaves if leaf.ndim > 2)


def without_tiles(parameters: dict[str, Any]) -> dict[str, Any]:
    """What `with_tiles` was given."""
    plain = {name: value for name, value in parameters.items() if name != HEAD}
    dtype = jax.tree.leaves(plain["embed"])[0].dtype
    return jax.tree.map(lambda leaf: tiles.unpacked(leaf).astype(dtype) if tiles.is_packed(leaf) else leaf, plain)


def _gains(kernel: Any) -> bool:
    """A kernel's first layer is looked at before others: most tell by it."""
    if not tiles.packs(kernel) or tiles.multiplied_by() is None:
        return False
    if kernel.dtype == jnp.bfloat16:
        return tiles.are_here()
    first = kernel[(0,) * (kernel.ndim - 2)]
    return bool(tiles.is_whole(first)) and tiles.are_here() and bool(tiles.is_whole(kernel))


@jax.jit
def _packed_rows(rows: Float[Array, "columns inner"]) -> tiles.Packed:
    return tiles.packed(rows.T)


def _linears(model: Any) -> Iterator[tuple[str, Any, str, nnx.Linear]]:
    """Of the layers: a kernel's path, the module that has the linear one, by which name, and that."""
    for path, module in nnx.iter_modules(model.blocks):
        for name, part in list(vars(module).items()):
            if isinstance(part, nnx.Linear):
                yield "/".join(["blocks", *map(str, path), name, "kernel"]), module, name, part

"""A model's layers: stacked along a leading axis, or apart, each with arrays of its own.

A stack suits TPUs, whose compiler reads a layer where it lies in it. For a GPU's products it copies the layer first:
decoding then moves three times the bytes that it must. Layers that are apart are each compiled by themselves, and
`lax.switch` goes from one to the next: still one executable for all plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from jaxpaint.base.part import WHOLE, Part, Portion
from jaxpaint.base.target import platform
from jaxpaint.models import narrow
from jaxpaint.models.family import Config
from jaxpaint.models.tiled import OfStack
from jaxpaint.models.transposed import transposed_kernels
from jaxpaint.tiles import is_packed

Parameters: TypeAlias = Any
Result = TypeVar("Result")
# A layer of more than this is large. By estimate, copying a smaller one out of its stack, or a group of them for
# `vmap`, takes a GPU no longer than the host takes to choose the next.
LARGE_LAYER_BYTES = 64 << 20
# A layer of less than this is small: a CPU copies it out of its stack sooner than it changes to code of its own, by a
# third of a decoding step at 0.4 MB, a sixth at 4 MB, nothing at 7 MB (docs/log.md).
SMALL_LAYER_BYTES = 4 << 20


@partial(jax.tree_util.register_dataclass, data_fields=["layers"], meta_fields=[])
@dataclass(frozen=True)
class Apart:
    """A parameter of every layer, in the place of the array that stacks them."""

    layers: tuple[Any, ...]


def _is_apart(leaf: Any) -> bool:
    return isinstance(leaf, Apart)


def with_transposed_kernels(stacked: Parameters) -> Parameters:
    """The layers' parameters, apart or in stacks, with kernels as [out, in] (`jaxpaint.models.transposed`)."""
    return transposed_kernels(stacked, _is_apart)


def are_apart(stacked: Parameters) -> bool:
    """Whether the layers' parameters are arrays of their own."""
    return any(map(_is_apart, jax.tree.leaves(stacked, is_leaf=_is_apart)))


def lie_apart(config: Config, dtype: Any) -> bool:
    """Whether a model's layers are to be apart: large ones on GPUs."""
    from jaxpaint.models import abstract_parameters

    if platform() != "gpu":
        return False
    stacks = [leaf for name, leaf in abstract_parameters(config, dtype).items() if name.startswith("blocks/")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in stacks) > LARGE_LAYER_BYTES * config.num_hidden_layers


def apart(stacked: Parameters) -> Parameters:
    """The layers of stacks each by themselves, on the devices that they lie on; those that are apart as they are."""
    return jax.tree.map(lambda leaf: leaf if _is_apart(leaf) else Apart(_taken_apart(leaf)), stacked, is_leaf=_is_apart)


def apart_blocks(path: str, parameter: Array) -> Any:
    """A parameter that was read, by its path (`blocks/mlp/up_proj/kernel`): apart where it stacks those of layers."""
    return jax.block_until_ready(apart(parameter)) if path.startswith("blocks/") else parameter


@jax.jit
def _taken_apart(leaf: Array) -> tuple[Array, ...]:
    return tuple(leaf[index] for index in range(leaf.shape[0]))


def together(parameters: Parameters) -> Parameters:
    """The inverse of `apart`, within any tree."""
    return jax.tree.map(lambda leaf: jnp.stack(leaf.layers) if _is_apart(leaf) else leaf, parameters, is_leaf=_is_apart)


def layer_stack(model: Any) -> tuple[Callable[..., Array], Any]:
    """One layer as a pure function of its parameters and inputs, and the stack of parameters to take a layer of.

    Where layers differ in kind, the stack holds each one's beside its parameters.
    """
    graphdef, stacked = nnx.split(model.blocks)
    kinds = getattr(model, "layer_kinds", None)
    if kinds is None:

        def block_alike(parameters: Any, *inputs: Any, beside: Any = None, **part: Any) -> Array:
            return layer_of(graphdef, parameters, beside)(*inputs, **part)

        return block_alike, stacked

    assert layer_count(stacked) == len(kinds), "the config is that of another number of layers"

    def block(layer: tuple[Any, Array], x: Array, context: Any, *inputs: Any, beside: Any = None, **part: Any) -> Array:
        parameters, kind = layer
        return layer_of(graphdef, parameters, beside and beside[0])(x, context.of_kind(kind), *inputs, **part)

    return block, (stacked, jnp.array(kinds))


def layer_of(graphdef: Any, parameters: Any, beside: Any = None) -> Any:
    """A layer as a module; with the parameters of another one `beside`, one that shares its norm with that."""
    own = nnx.merge(graphdef, parameters)
    return own if beside is None else own.sharing_norm(nnx.merge(graphdef, beside))


def layer_count(stacked: Parameters) -> int:
    """How many layers there are."""
    first = jax.tree.leaves(stacked, is_leaf=_is_apart)[0]
    return len(first.layers) if _is_apart(first) else first.shape[0]


def layer_bytes(stacked: Parameters) -> int:
    """Of one layer's parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(stacked)) // layer_count(stacked)


def layer_parameters(stacked: Parameters, index: int | Int[Array, ""]) -> Parameters:
    """One layer's parameters, on the device; out of a stack `index` may be traced."""

    def taken(leaf: Any) -> Any:
        if _is_apart(leaf):
            return _brought(leaf.layers[index])
        if is_packed(leaf):
            return OfStack(leaf, jnp.asarray(index, jnp.int32))
        return _brought(narrow.taken(leaf, index))

    return jax.tree.map(taken, stacked, is_leaf=_is_apart)


def run_layer(
    block: Callable[..., Result],
    stacked: Parameters,
    index: int | Int[Array, ""],
    *inputs: Any,
    portion: Portion = WHOLE,
) -> Result:
    """`block(parameters, *inputs)` of one layer, or of a portion of it; indices may be traced."""
    if portion.beside is not None:
        stack = stacked if isinstance(portion.beside, int) else together(stacked)  # all but a norm is never read
        block = partial(block, beside=layer_parameters(stack, portion.beside))
    block = of_part(block, portion.part)
    if isinstance(index, int) or not are_apart(stacked):
        return block(layer_parameters(stacked, index), *inputs)

    def branch(each: int) -> Callable[..., Result]:
        return lambda *inputs: block(layer_parameters(stacked, each), *inputs)

    return jax.lax.switch(index, [branch(each) for each in range(layer_count(stacked))], *inputs)


def of_part(block: Callable[..., Result], part: Part) -> Callable[..., Result]:
    """A block that runs that part of its layer: as it is where that is all of it."""
    return block if part == "whole" else partial(block, part=part)


def are_offloaded(stacked: Parameters) -> bool:
    """Whether some of the parameters, traced or not, lie in the memory of the device's host."""
    return any(map(_on_host, jax.tree.leaves(stacked)))


def known_on_host(path: str, parameter: Array) -> Array:
    """A parameter that was read into the host's memory, in a type that says so."""
    if parameter.sharding.memory_kind != "pinned_host":
        return parameter
    return jax.block_until_ready(jax.device_put(parameter, jax.memory.Space.Host))


def _on_host(leaf: Any) -> bool:
    return jax.typeof(leaf).memory_space == jax.memory.Space.Host


def _brought(leaf: Array) -> Array:
    """On the device, while what does not need it runs."""
    return jax.device_put(leaf, jax.memory.Space.Device) if _on_host(leaf) else leaf

"""bfloat16 on a CPU, in forms that XLA computes as they are.

Left to itself its CPU backend turns bfloat16 into float32 and back wherever it meets it: a whole cache for the column
that is written into it, a kernel before it is multiplied with, each step of an activation (docs/log.md). On other
devices and of other types all here is what its name says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from jaxpaint.base.machine import multiplies_bfloat16
from jaxpaint.base.target import platform


def moved(move: Callable[..., Array], *arguments: Any) -> Array:
    """`move(*arguments)`, of a function that puts numbers elsewhere and leaves each as it is; indices among them."""
    return _moved(move, *arguments) if _narrow(*filter(_is_floating, arguments)) else move(*arguments)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moved(move: Callable[..., Array], *arguments: Any) -> Array:
    return jax.lax.bitcast_convert_type(move(*_bits(*arguments)), jnp.bfloat16)


@_moved.defjvp
def _(move: Callable[..., Array], arguments: tuple[Any, ...], changes: tuple[Any, ...]) -> tuple[Array, Array]:
    each = zip(arguments, changes, strict=True)
    return _moved(move, *arguments), move(*(change if _is_floating(value) else value for value, change in each))


def _bits(*arguments: Any) -> list[Any]:
    # Else a loop's index leaves them, and the bits of a whole table are copied before the loop.
    arguments = jax.lax.optimization_barrier(arguments)
    return [jax.lax.bitcast_convert_type(each, jnp.uint16) if _is_floating(each) else each for each in arguments]


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.floating)


def taken(stack: Array, index: Any) -> Array:
    """`stack[index]` along the first axis; the index may be traced."""
    return moved(partial(jax.lax.dynamic_index_in_dim, keepdims=False), stack, index)


def rows_of(table: Array, indices: Array) -> Array:
    """`table[indices]`, of indices within it."""
    return _rows_of(table, indices) if _narrow(table) else jnp.take(table, indices, axis=0)


@jax.custom_jvp
def _rows_of(table: Array, indices: Array) -> Array:
    # One by one: a gather turns the whole table into what it can read.
    one = partial(jax.lax.dynamic_index_in_dim, keepdims=False)
    found = jax.lax.map(lambda index: one(*_bits(table, index)), indices.reshape(-1))
    return jax.lax.bitcast_convert_type(found, table.dtype).reshape(*indices.shape, *table.shape[1:])


@_rows_of.defjvp
def _(arguments: tuple[Array, Array], changes: tuple[Array, Any]) -> tuple[Array, Array]:
    return _rows_of(*arguments), jnp.take(changes[0], arguments[1], axis=0)


def in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function of one array, its steps in float32, its result of the array's type."""

    @wraps(function)
    def call(x: Array) -> Array:
        return function(x.astype(jnp.float32)).astype(x.dtype) if _narrow(x) else function(x)

    return call


def rounded(x: Float[Array, "*shape"], dtype: Any) -> Float[Array, "*shape"]:
    """`x.astype(dtype)`. What comes before it, as an exponential, is computed together with it and as fast as alone."""
    is_narrowing = x.dtype == jnp.float32 and dtype == jnp.bfloat16 and platform() == "cpu"
    return _to_bfloat16(x) if is_narrowing else x.astype(dtype)


@jax.custom_jvp
def _to_bfloat16(x: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # Half of the last kept digit, less the least of it where that digit is even: ties go to even ones.
    upper = jnp.where(x == x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
    return jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)


@_to_bfloat16.defjvp
def _(arguments: tuple[Array], changes: tuple[Array]) -> tuple[Array, Array]:
    return _to_bfloat16(*arguments), changes[0].astype(jnp.bfloat16)


def widened(*arrays: Array) -> tuple[Array, ...]:
    """For a product that is not `product`: in float32 where XLA would turn them into it, or fail to as it runs."""
    return tuple(array.astype(jnp.float32) for array in arrays) if _narrow(*arrays) else arrays


def product(
    left: Float[Array, "*batch rows inner"], right: Float[Array, "*batch inner columns"]
) -> Float[Array, "*batch rows columns"]:
    """The product in float32."""
    if multiplies_as_is(left, right):
        return product_by_rows(left, right)
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def product_by_rows(
    left: Float[Array, "*batch rows inner"], right: Float[Array, "*batch inner columns"]
) -> Float[Array, "*batch rows columns"]:
    """The product in float32, of arrays that lie as they are written."""
    rows, columns, narrow = left.shape[-2], right.shape[-1], multiplies_as_is(left, right)
    # Of vectors XLA makes sums of its own, in float32.
    if narrow and rows == 1:
        left = jnp.concatenate([left, left], axis=-2)
    if narrow and columns == 1:
        right = jnp.concatenate([right, right], axis=-1)
    # XLA's library takes rows one after the other and no other layout; where the compiler chose one, for what comes
    # before or after, the product would be turned into float32 or fail when it runs.
    return _by_rows(jnp.matmul(_by_rows(left), _by_rows(right), preferred_element_type=jnp.float32))[
        ..., :rows, :columns
    ]


def products_with_rows(
    x: Float[Array, "*batch inner"], rows: Float[Array, "rows inner"]
) -> Float[Array, "*batch rows"]:
    """`x @ rows.T` in float32, of many rows: they are not turned."""
    if not multiplies_as_is(x, rows):
        return jnp.matmul(x, rows.T, preferred_element_type=jnp.float32)
    return product(rows, x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], -1)


def multiplies_as_is(*arrays: Array) -> bool:
    """Whether `product` of the arrays is one of bfloat16 by a processor's instructions for it."""
    return _narrow(*arrays) and multiplies_bfloat16()


def _by_rows(x: Array) -> Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _narrow(*arrays: Array) -> bool:
    return {jnp.result_type(array) for array in arrays} == {jnp.dtype(jnp.bfloat16)} and platform() == "cpu"


def dot_general(left: Array, right: Array, dimensions: Any, **how: Any) -> Array:
    """`jax.lax.dot_general` of rows and a kernel, by `product` where it is one of bfloat16 as it is."""
    if not multiplies_as_is(left, right):
        return jax.lax.dot_general(left, right, dimensions, **how)
    rows = left.reshape(-1, left.shape[-1])
    return rounded(product(rows, right), left.dtype).reshape(*left.shape[:-1], -1)


# `flax.nnx.Linear` by `product`.
Linear: Any = partial(nnx.Linear, dot_general=dot_general)

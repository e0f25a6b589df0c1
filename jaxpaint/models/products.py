"""Products in bfloat16 on CPUs, in the form that XLA's library multiplies with the processor's own instructions.

YNNPACK multiplies bfloat16 as it is (AVX512-BF16, AMX) where float32 is asked for and what is summed over lies last on
the left and first on the right. Else XLA turns both sides into float32 first, the weights at every call. Either way
sums are in float32. One row is a product with a vector, which the library does not do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.target import platform


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """As `jax.lax.dot_general` of rows [..., features] with a kernel [features, out]."""
    if not _narrow_on_cpu(x, kernel):
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
    single = x.size == x.shape[-1]
    rows = jnp.concatenate([x, x]) if single else x
    found = jax.lax.dot_general(rows, kernel, dimension_numbers, **options, preferred_element_type=jnp.float32)
    return (found[:1] if single else found).astype(jnp.bfloat16)


# Rows times a kernel [in, out], and a bias.
Linear = partial(nnx.Linear, dot_general=dot_general)


def vocabulary_product(kernel: Float[Array, "size D"], rows: Float[Array, "M D"]) -> Float[Array, "size M"]:
    """Every token's kernel times every row, in float32. The vocabulary leads: CPUs multiply that fastest."""
    return jnp.matmul(kernel, rows.T, preferred_element_type=jnp.float32)


def untransposed_vocabulary_product(
    kernel: Float[Array, "size D"], rows: Float[Array, "M D"]
) -> Float[Array, "size M"]:
    """As `vocabulary_product`, faster in bfloat16; XLA cannot multiply so where the result is transposed."""
    if len(rows) == 1 or not _narrow_on_cpu(kernel, rows):
        return vocabulary_product(kernel, rows)
    # Turned in two parts: else XLA makes it a product of rows with rows again, which the library does not do.
    half = len(rows) // 2
    columns = jnp.concatenate([rows[:half].T, rows[half:].T], axis=1)
    return jnp.matmul(kernel, columns, preferred_element_type=jnp.float32)


def _narrow_on_cpu(*operands: Array) -> bool:
    return platform() == "cpu" and all(each.dtype == jnp.bfloat16 for each in operands)

"""Products in bfloat16 on CPUs, in the form that XLA's library multiplies with the processor's own instructions.

Asked for float32, YNNPACK multiplies bfloat16 as it is (AVX512-BF16, AMX); asked for bfloat16, XLA turns the weights
into float32 first. Either way sums are in float32 and are rounded once. One row is a product with a vector, for which
XLA has no such library, so it is multiplied twice (docs/log.md).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jaxpaint.base.target import platform


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """As `jax.lax.dot_general` of rows [..., features] with a kernel [features, out]."""
    if platform() != "cpu" or x.dtype != jnp.bfloat16 or kernel.dtype != jnp.bfloat16:
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
    single = x.size == x.shape[-1]
    rows = jnp.concatenate([x, x]) if single else x
    found = jax.lax.dot_general(rows, kernel, dimension_numbers, **options, preferred_element_type=jnp.float32)
    return (found[:1] if single else found).astype(jnp.bfloat16)


# Rows times a kernel [in, out], and a bias.
Linear = partial(nnx.Linear, dot_general=dot_general)

"""Attention of one token a row to a cache is attention of whole texts, however many queries share a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaint.base.target import compiling_for
from jaxpaint.models.attention import FEW_QUERIES, FULL_QUERIES, Past, attention_with_past


@pytest.mark.parametrize("target", ["cpu", "tpu"])
@pytest.mark.parametrize("shared", [1, 3, FULL_QUERIES, FEW_QUERIES, FEW_QUERIES + 1])
def test_a_tokens_attention_to_a_cache_of_its_row_is_that_of_the_whole_text(shared: int, target: str) -> None:
    batch, length, groups, head_dim = 3, 9, 2, 8
    keys = jax.random.split(jax.random.key(shared), 3)
    query = jax.random.normal(keys[0], (batch, length, groups * shared, head_dim))
    key, value = (jax.random.normal(each, (batch, length, groups, head_dim)) for each in keys[1:])
    past = Past(*(jnp.swapaxes(each[:, :-1], 1, 2) for each in (key, value)), jnp.ones((batch, 1, 1, length - 1), bool))
    last = query[:, -1:], key[:, -1:], value[:, -1:], jnp.ones((batch, 1, 1, 1), bool)
    spread = (key.repeat(shared, axis=2), value.repeat(shared, axis=2))
    weights = jax.nn.softmax(jnp.einsum("bnh,bsnh->bns", query[:, -1], spread[0]) / head_dim**0.5)
    expected = jnp.einsum("bns,bsnh->bnh", weights, spread[1])
    for implementation in ("matmul", "einsum"):
        with compiling_for(target):
            found = attention_with_past(*last, [past], implementation)[:, 0]
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_few_queries_are_a_product_for_a_tpu() -> None:
    """Its compiler makes sums of one with fewer rows than it has in a register."""
    row = jnp.ones((2, 1, 4, 16), jnp.bfloat16)
    past = Past(
        jnp.ones((2, 4, 32, 16), jnp.bfloat16), jnp.ones((2, 4, 32, 16), jnp.bfloat16), jnp.ones((2, 1, 1, 32), bool)
    )
    own = row, row, row, jnp.ones((2, 1, 1, 1), bool)
    with compiling_for("tpu"):
        program = str(jax.make_jaxpr(lambda: attention_with_past(*own, [past], "einsum"))())
    assert f"f32[2,4,{FULL_QUERIES},32]" in program
    assert f"f32[2,4,{FULL_QUERIES},16]" in program

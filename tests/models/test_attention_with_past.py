"""Attention of one token a row to a cache is attention of whole texts, however many queries share a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaint.models.attention import FEW_QUERIES, Past, attention_with_past


@pytest.mark.parametrize("shared", [1, 3, FEW_QUERIES, FEW_QUERIES + 1])
def test_a_tokens_attention_to_a_cache_of_its_row_is_that_of_the_whole_text(shared: int) -> None:
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
        found = attention_with_past(*last, [past], implementation)[:, 0]
        np.testing.assert_allclose(found, expected, atol=2e-6)

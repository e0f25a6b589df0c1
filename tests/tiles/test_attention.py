"""Attention by a processor's vectors, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint import tiles
from jaxpaint.models.attention import Past, attention, attention_with_past, vector_attention, visibility
from jaxpaint.models.blockwise import blocks, blockwise_attention, stream_attention

pytestmark = pytest.mark.skipif(not tiles.are_here(), reason="no processor with AVX2, or no numba to compile for it")


def parts_of(numbers, sizes, batch: int, length: int, groups: int, head_dim: int, shared: bool, dtype) -> list[Past]:
    """Keys and values with masks by which each query sees some key of the last part."""
    parts = []
    for number, keys in enumerate(sizes):
        rows = 1 if shared and number == 0 else batch
        key, value = (jnp.array(numbers.standard_normal((rows, groups, keys, head_dim)), dtype) for _ in range(2))
        mask = numbers.random((batch, 1, length, keys)) < numbers.choice([0.03, 0.5, 1.0])
        mask[:, :, :, : numbers.integers(0, keys)] = False  # whole blocks that nobody sees
        if number == len(sizes) - 1:
            mask[..., -1] = True
        parts.append(Past(key, value, jnp.array(mask)))
    return parts


def exact(query, parts: list[Past]) -> np.ndarray:
    """In float64."""
    query = np.asarray(query, np.float64)
    batch, _, heads, head_dim = query.shape

    def of_all(arrays) -> np.ndarray:
        wide = [np.broadcast_to(each, (batch, *each.shape[1:])) for each in (np.asarray(a, np.float64) for a in arrays)]
        return np.repeat(np.concatenate(wide, axis=2), heads // wide[0].shape[1], axis=1)

    key, value = of_all([part.key for part in parts]), of_all([part.value for part in parts])
    mask = np.concatenate([part.mask for part in parts], axis=-1)
    scores = np.where(mask, np.einsum("btnh,bnsh->bnts", query, key) * head_dim**-0.5, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bnts,bnsh->btnh", weights, value)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.one_of(st.integers(1, 20), st.sampled_from([48, 49, 97, 200])),
    st.sampled_from([(1, 1), (2, 3), (1, 8), (3, 1)]),
    st.sampled_from([16, 32, 64, 80, 128]),
    st.lists(st.sampled_from([1, 7, 8, 40, 96, 97, 200, 333]), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_as_in_float64(batch, length, heads, head_dim, sizes, shared, seed) -> None:
    numbers = np.random.default_rng(seed)
    groups, each = heads
    query = jnp.array(numbers.standard_normal((batch, length, groups * each, head_dim)), jnp.float32)
    parts = parts_of(numbers, sizes, batch, length, groups, head_dim, shared, jnp.float32)
    found = tiles.attention(query, parts, head_dim**-0.5)
    np.testing.assert_allclose(found, exact(query, parts), rtol=0, atol=4e-6)


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80])
def test_in_bfloat16(head_dim: int) -> None:
    """As near as one rounding of the weights, and of the result, allows: scores and sums are in float32."""
    numbers = np.random.default_rng(head_dim)
    query = jnp.array(numbers.standard_normal((2, 70, 6, head_dim)), jnp.bfloat16)
    parts = parts_of(numbers, [37, 69], 2, 70, 2, head_dim, True, jnp.bfloat16)
    found = tiles.attention(query, parts, head_dim**-0.5)
    assert found.dtype == jnp.bfloat16
    # Each weight is off by 2**-8 of itself at most: a sum of weighted values by as much of their sizes' sum.
    sizes = exact(query, [part._replace(value=jnp.abs(part.value)) for part in parts])
    assert (np.abs(np.asarray(found, np.float64) - exact(query, parts)) <= 2**-7 * sizes + 1e-6).all()


@pytest.mark.parametrize("lookback", [0, 2])
@pytest.mark.parametrize("window", [None, 9])
def test_as_plain_products(lookback: int, window: int | None) -> None:
    """Rows of several texts and of trees, padding included."""
    numbers = np.random.default_rng(1)
    ends = np.sort(numbers.integers(1, 49, (5, 48)), axis=1)
    ends = jnp.array(np.maximum(ends, np.arange(48) + 1))
    mask = visibility(jnp.broadcast_to(jnp.arange(48), (5, 48)), ends, (window,), lookback)
    query, key, value = (jnp.array(numbers.standard_normal((5, 48, n, 16)), jnp.float32) for n in (4, 2, 2))
    plain, own = (attention(query, key, value, mask, how) for how in ("matmul", "vectors"))
    np.testing.assert_allclose(own, plain, rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([1, 47, 96, 130]),
    st.sampled_from([None, 1, 5, 60, 10_000]),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_a_stream_without_a_mask(rows: int, length: int, window: int | None, texts: int, seed: int) -> None:
    """Rows that are one stream of texts, some of whose tokens are seen by fewer that follow."""
    numbers = np.random.default_rng(seed)
    tokens = rows * length
    cuts = np.append(np.sort(numbers.integers(0, tokens, texts)), tokens)
    index = np.arange(tokens)
    ends = cuts[np.searchsorted(cuts, index, side="right")]
    ends = np.where(numbers.random(tokens) < 0.2, np.maximum(index + 1, (ends + index) // 2), ends)
    positions = (index % 97).reshape(rows, length)
    visible_until = ends.reshape(rows, length) - np.arange(rows)[:, None] * length
    layout = blocks(jnp.array(positions, jnp.int32), jnp.array(visible_until, jnp.int32), (window,))
    query, key, value = (jnp.array(numbers.standard_normal((rows, length, n, 16)), jnp.float32) for n in (4, 2, 2))
    plain, own = (attend(query, key, value, layout) for attend in (blockwise_attention, stream_attention))
    np.testing.assert_allclose(own, plain, rtol=0, atol=2e-6)


def test_what_it_does_not_serve_is_as_before() -> None:
    numbers = np.random.default_rng(2)
    query, key, value = (jnp.array(numbers.standard_normal((2, 20, 4, 16)), jnp.float32) for _ in range(3))
    mask = jnp.broadcast_to(jnp.tri(20, dtype=bool), (2, 1, 20, 20))
    bias = jnp.array(numbers.standard_normal((1, 4, 20, 20)), jnp.float32)
    for how in ({"cap": 2.0}, {"bias": bias}):
        plain, own = (attention(query, key, value, mask, by, **how) for by in ("matmul", "vectors"))
        np.testing.assert_array_equal(own, plain)
    past = Past(*(jnp.swapaxes(each, 1, 2) for each in (key, value)), jnp.ones((2, 1, 1, 20), bool))
    one = [each[:, :1] for each in (query, key, value)]
    plain, own = (attention_with_past(*one, mask[:, :, :1, :1], [past], by) for by in ("matmul", "vectors"))
    np.testing.assert_array_equal(own, plain)


def test_beside_other_operations() -> None:
    """No queries, a mapped function, and derivatives: as plain products."""
    numbers = np.random.default_rng(3)
    parts = parts_of(numbers, [30], 1, 12, 2, 16, False, jnp.float32)
    query = jnp.array(numbers.standard_normal((3, 1, 12, 4, 16)), jnp.float32)
    assert vector_attention(query[0, :, :0], [parts[0]._replace(mask=parts[0].mask[:, :, :0])]).shape == (1, 0, 4, 16)

    def plain(query):
        part = parts[0]
        turned = jnp.swapaxes(part.key, 1, 2), jnp.swapaxes(part.value, 1, 2)
        scores = jnp.einsum("btkgh,bskh->bkgts", query.reshape(1, 12, 2, 2, 16), turned[0]) / 4
        weights = jax.nn.softmax(jnp.where(part.mask[:, :, None], scores, -jnp.inf), axis=-1)
        return jnp.einsum("bkgts,bskh->btkgh", weights, turned[1]).reshape(1, 12, 4, 16)

    def own(query):
        return vector_attention(query, parts)

    np.testing.assert_allclose(jax.vmap(own)(query), jax.vmap(plain)(query), rtol=0, atol=2e-6)
    by_own, by_plain = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(query[0]) for f in (own, plain))
    np.testing.assert_allclose(by_own, by_plain, rtol=0, atol=1e-5)

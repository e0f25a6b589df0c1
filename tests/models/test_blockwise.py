"""Attention block by block is attention: on any trees, windows, caps and groups of heads; its memory is linear."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.engine.packing import Request, pack
from jaxpaint.engine.random_weights import random_model
from jaxpaint.engine.score import pack_for, score
from jaxpaint.models.attention import attention, visibility
from jaxpaint.models.blockwise import blocks, blockwise_attention
from tests.helpers.decoders import make_tiny


def stream(seed: int, stems: list[int], tails: list[int]):
    """Positions and ends [B, S] of requests that share beginnings, packed for attention block by block."""
    source = np.random.default_rng(seed)
    longest = source.integers(0, 3, max(stems) + 1).tolist()
    requests = [
        Request.of([*longest[: stems[n % len(stems)] + 1], n], source.integers(0, 9, tail + 1).tolist(), 10_000)
        for n, tail in enumerate(tails)
    ]
    (batch, *_) = pack(requests, batch_tokens=700, attention_cost=1.0, blockwise=True)
    return batch


ROWS = (1, 4, 6, 12)  # fewer than a wide block, as many, and more
jitted_visibility = jax.jit(visibility, static_argnums=2, static_argnames="lookback")
jitted_attention = jax.jit(attention, static_argnames="cap")
jitted_blocks = jax.jit(blocks, static_argnums=2)
jitted_blockwise_attention = jax.jit(blockwise_attention, static_argnums=4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    stems=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    tails=st.lists(st.integers(0, 150), min_size=1, max_size=5),
    window=st.sampled_from([None, 1, 40, 200]),
    cap=st.sampled_from([None, 2.0]),
    heads=st.sampled_from([(4, 4), (6, 2), (13, 1)]),
)
@pytest.mark.slow
def test_it_is_attention(seed, stems, tails, window, cap, heads):
    batch = stream(seed, stems, tails)
    rows, length = batch.tokens.shape
    # Rows of padding, and whole functions that are compiled once for many examples: else each example compiles anew.
    beyond = next(n for n in ROWS if n >= rows) - rows
    rows += beyond
    positions = np.pad(batch.positions, ((0, beyond), (0, 0)))
    ends = np.concatenate([batch.visible_until, np.tile(np.arange(1, length + 1), (beyond, 1))])
    query_heads, groups = heads
    source = np.random.default_rng(seed)
    query, key, value = (
        jnp.asarray(source.normal(size=(rows, length, n, 8)), jnp.float32) for n in (query_heads, groups, groups)
    )
    layout = jnp.asarray(positions, jnp.int32), jnp.asarray(ends, jnp.int32)
    mask = jitted_visibility(*layout, (window,), lookback=rows - 1)
    expected = jitted_attention(query, key, value, mask, cap=cap)
    found = jitted_blockwise_attention(query, key, value, jitted_blocks(*layout, (window,)), cap)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_layers_of_several_kinds_read_their_own_windows():
    batch = stream(3, [300], [20, 90, 4])
    rows, length = batch.tokens.shape
    source = np.random.default_rng(0)
    query, key, value = (jnp.asarray(source.normal(size=(rows, length, 2, 8)), jnp.float32) for _ in range(3))
    layout = jnp.asarray(batch.positions), jnp.asarray(batch.visible_until)
    each = blocks(*layout, (None, 50))
    for kind, window in enumerate((None, 50)):
        mask = visibility(*layout, (window,), lookback=rows - 1)
        found = blockwise_attention(query, key, value, each.of_kind(kind))
        np.testing.assert_allclose(found, attention(query, key, value, mask), atol=1e-5)


def test_memory_is_linear_in_the_length():
    def temporary(length: int) -> int:
        shaped = jax.ShapeDtypeStruct((length // 128, 128, 4, 16), jnp.float32)
        whole = jax.ShapeDtypeStruct((length // 128, 128), jnp.int32)

        def run(query, key, value, positions, ends):
            return blockwise_attention(query, key, value, blocks(positions, ends))

        compiled = jax.jit(run).lower(shaped, shaped, shaped, whole, whole).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8192) < 5 * temporary(2048)


@pytest.mark.parametrize("variation", ["grouped-query", "sliding window"])
@pytest.mark.slow
def test_a_long_text_has_the_scores_of_the_whole_model(variation):
    config = dataclasses.replace(make_tiny(variation).model.config, max_position_embeddings=1500)
    model = random_model(config)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1500).tolist()
    requests = [Request.of(tokens[:1], tokens[1:], 1500), Request.of(tokens[:700], tokens[700:709], 1500)]
    assert [batch.lookback for batch in pack_for(model, requests, None)] == [None]
    found = score(model, requests).loglikelihoods
    logprobs = np.asarray(jax.nn.log_softmax(model.logits(np.array([tokens]))[0, :-1]), np.float64)
    right = np.take_along_axis(logprobs, np.array(tokens[1:])[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(found, [right.sum(), right[699:708].sum()], rtol=1e-6)

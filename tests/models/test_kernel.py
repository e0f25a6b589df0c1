"""The attention kernel for TPUs, interpreted on a CPU, is attention: on any trees, windows, caps, groups, devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.engine import model as engine
from jaxpaint.engine.model import from_parameters
from jaxpaint.engine.random_weights import random_model
from jaxpaint.models import decoder, kernel, llama, qwen2
from jaxpaint.models.attention import attention, visibility
from jaxpaint.models.kernel import Kernel, kernel_attention, seen
from jaxpaint.plans.plan import Plan

ROWS, LENGTH, HEAD_DIM = 2, 384, 128  # three blocks a row, of the narrowest


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", kernel.NARROW)


def trees(seed: int, children: int, lookback: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and ends of random trees laid out depth first; with `lookback`, some of a row go on in the next."""
    draw = np.random.default_rng(seed)
    positions, ends = np.zeros((2, ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        open_ends: list[int] = []
        for index in range(LENGTH):
            open_ends = [end for end in open_ends if end > index]
            last = open_ends[-1] if open_ends else LENGTH
            positions[row, index], ends[row, index] = len(open_ends), draw.integers(index + 1, last + 1)
            if draw.integers(children) == 0:
                ends[row, index] = last
            open_ends.append(ends[row, index])
    if lookback:
        ends[0][ends[0] == LENGTH] = LENGTH + draw.integers(1, LENGTH)
    return positions, ends


@partial(jax.jit, static_argnames=("window", "lookback", "cap", "kind"))
def both(query, key, value, positions, ends, window, lookback, cap, kind):
    mask = visibility(positions, ends, (window,), lookback)
    expected = attention(query, key, value, mask, cap=cap)
    layout = seen(positions, ends, (window,), lookback)
    return kernel_attention(query, key, value, layout, kind, cap), expected


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    children=st.integers(1, 5),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    how=st.sampled_from([(None, 0, None), (None, 1, None), (7, 0, None), (40, 1, 2.0)]),
)
@pytest.mark.slow
def test_it_is_attention(seed, children, heads, how):
    window, lookback, cap = how
    positions, ends = trees(seed, children, lookback)
    draw = np.random.default_rng(seed)
    arrays = (jnp.asarray(draw.normal(size=(ROWS, LENGTH, n, HEAD_DIM)), jnp.float32) for n in (*heads, heads[1]))
    found, expected = both(*arrays, positions, ends, window, lookback, cap, Kernel(interpret=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)


LLAMA = llama.LlamaConfig("llama", 61, 64, 48, 3, 2, 1, HEAD_DIM, 512, 1e-5, 1e4)
QWEN = qwen2.read(
    {
        **{"model_type": "qwen2", "vocab_size": 61, "hidden_size": 256, "intermediate_size": 48},
        **{"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512},
        **{"use_sliding_window": True, "sliding_window": 33},
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    }
)


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["grouped heads", "windows in turn"])
@pytest.mark.slow
def test_a_model_with_it_has_the_same_logits(config, monkeypatch):
    plain = random_model(config, dtype="float32")
    monkeypatch.setattr(engine, "attention_implementation", lambda *_: Kernel(interpret=True))
    ours = from_parameters(config, nnx.to_pure_dict(plain.state))
    ran = Counter()

    def counted(query, *others):
        ran[query.shape[1]] += 1
        return kernel_attention(query, *others)

    monkeypatch.setattr(decoder, "kernel_attention", counted)
    plan, draw = Plan.parse("0 {1 2} 2"), np.random.default_rng(0)
    # Rows that it computes, and others that are left to plain products.
    for length, static in ((256, False), (256, True), (24, False)):
        tokens, lengths = draw.integers(0, 61, (2, length)), np.array([length, length // 3])
        found, right = (each.logits(tokens, plan, lengths, static=static) for each in (ours, plain))
        for row, size in enumerate(lengths):
            np.testing.assert_allclose(found[row, :size], right[row, :size], rtol=1e-4, atol=1e-4)
    assert set(ran) == {256}


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jaxpaint.models.attention import attention, visibility
from jaxpaint.models.kernel import Kernel, kernel_attention, seen
from jaxpaint.models.sharding import device_mesh
kernel = Kernel(device_mesh(2), interpret=True)
draw = np.random.default_rng(0)
for rows, window in ((2, None), (3, 9)):
    query, key, value = (jnp.asarray(draw.normal(size=(rows, 256, n, 128)), jnp.float32) for n in (4, 2, 2))
    layout = np.tile(np.arange(256, dtype=np.int32), (rows, 1)), np.full((rows, 256), 256, np.int32)
    expected = attention(query, key, value, visibility(*layout, (window,)))
    run = jax.jit(lambda q, k, v: kernel_attention(q, k, v, seen(*layout, (window,)), kernel))
    np.testing.assert_allclose(run(query, key, value), expected, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_on_four_devices_each_computes_its_own_rows_and_heads():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["equal"], done.stderr


def test_which_heads_it_serves():
    assert Kernel.serves(128, 1, None)
    assert not Kernel.serves(64, 8, None)  # half a register
    assert [Kernel().fits(length) for length in (16, 256, 300, 384)] == [False, True, False, True]

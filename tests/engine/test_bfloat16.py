"""bfloat16 on a CPU: every way that a model runs, near float32, with kernels that are not turned into float32 first."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.generation import Prompt, generate
from jaxpaint.models.products import Linear, dot_general, untransposed_vocabulary_product, vocabulary_product
from tests.helpers.decoders import PLANS, VARIATIONS, make_tiny

TEXTS = [tuple((3 * n + 7 * at) % 40 for at in range(9 + n)) for n in range(5)]


def _narrow(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize(
    "variation",
    [each if each == "grouped-query" else pytest.param(each, marks=pytest.mark.slow) for each in VARIATIONS],
)
def test_every_family_runs_as_in_float32(variation):
    """XLA gives up on some layouts of such products only when they run."""
    from flax import nnx

    from jaxpaint.models import abstract_model

    wide = make_tiny(variation).model
    graphdef = nnx.split(abstract_model(wide.config, jnp.bfloat16))[0]
    model = dataclasses.replace(wide, graphdef=graphdef, state=_narrow(wide.state))
    same = dataclasses.replace(wide, state=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.state))
    for rows in (TEXTS[:1], TEXTS):
        requests = [Request.of(text[:-2], text[-2:], 64) for text in rows]
        ours, exact = (score(each, requests).loglikelihoods for each in (model, same))
        np.testing.assert_allclose(ours, exact, atol=0.25)
        found = list(generate(model, [Prompt(text, 3) for text in rows], PLANS[:2], batch_size=len(rows)))
        assert [len(each.tokens) for each in found] == [3] * (2 * len(rows))
    tokens = np.array(TEXTS[0])[None]
    np.testing.assert_allclose(model.logits(tokens), same.logits(tokens), atol=0.25)


@pytest.mark.parametrize("shape", [(1, 48), (1, 1, 48), (5, 48), (2, 3, 48)])
def test_products_are_rounded_once(shape):
    x, kernel = (jax.random.normal(jax.random.key(i), each, jnp.bfloat16) for i, each in enumerate((shape, (48, 20))))
    numbers = ((len(shape) - 1,), (0,)), ((), ())
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    found = jax.jit(lambda x, kernel: dot_general(x, kernel, numbers))(x, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-5)
    rows = x.reshape(-1, 48)
    for product in (vocabulary_product, untransposed_vocabulary_product):
        logits = jax.jit(product)(kernel.T.copy(), rows)
        np.testing.assert_allclose(logits, exact.reshape(-1, 20).T, rtol=1e-5, atol=1e-5)


def test_float32_and_gradients_are_as_they_were():
    from flax import nnx

    x = jax.random.normal(jax.random.key(0), (3, 16))
    ours, plain = (kind(16, 8, rngs=nnx.Rngs(0)) for kind in (Linear, nnx.Linear))
    assert (ours(x) == plain(x)).all()
    ours, plain = (kind(16, 8, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)) for kind in (Linear, nnx.Linear))

    def loss(module, x):
        return module(x.astype(jnp.bfloat16)).astype(jnp.float32).sum()

    gradients = [jax.tree.leaves(nnx.grad(loss)(each, x)) for each in (ours, plain)]
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), rtol=2e-2, atol=2e-2)


def test_a_layers_products_read_bfloat16():
    """XLA leaves that to its library; asked for bfloat16, it would make both sides float32."""
    from flax import nnx

    linear = Linear(16, 24, param_dtype=jnp.bfloat16, use_bias=False, rngs=nnx.Rngs(0))
    text = jax.jit(linear).lower(jnp.ones((8, 16), jnp.bfloat16)).as_text()
    assert "(tensor<8x16xbf16>, tensor<16x24xbf16>) -> tensor<8x24xf32>" in text

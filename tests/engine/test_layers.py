"""Layers that lie apart are the layers of a stack: for everything that reads a model's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxpaint.base.target import compiling_for
from jaxpaint.bench.shapes import config_of
from jaxpaint.engine import model as engine
from jaxpaint.engine import random_weights
from jaxpaint.engine.layers import Apart, are_apart, lie_apart, together
from jaxpaint.engine.model import Model, from_parameters, load
from jaxpaint.engine.packing import Request
from jaxpaint.engine.random_weights import random_model
from jaxpaint.engine.score import score
from jaxpaint.generation import Prompt, generate
from jaxpaint.models.checkpoint import save
from jaxpaint.plans.plan import Plan
from jaxpaint.training.tune import host_parameters
from tests.helpers.decoders import VOCAB_SIZE, make_tiny

PLANS = [Plan.parse(text) for text in ("0-4", "4 0*2 2", "0 {1-3}*2 4", "0 sum{(1 2) (3 4)} 4")]
TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 12))


@pytest.fixture(params=["grouped-query", "qwen2, windows in turn"])
def both(request, monkeypatch) -> tuple[Model, Model]:
    """A model with stacks, and the same with its layers apart."""
    stacked = make_tiny(request.param).model
    monkeypatch.setattr(engine, "lie_apart", lambda config, dtype: True)
    return stacked, from_parameters(stacked.config, nnx.to_pure_dict(stacked.state))


@pytest.mark.slow
def test_logits_and_scores_are_the_same(both):
    stacked, apart = both
    assert are_apart(apart.state["blocks"])
    assert not are_apart(stacked.state["blocks"])
    requests = [Request.of(list(map(int, row[:5])), list(map(int, row[5:])), 64) for row in TOKENS]
    for plan, static in ((PLANS[1], False), (PLANS[2], False), (PLANS[3], False), (PLANS[2], True)):
        found, right = (each.logits(TOKENS, plan, [12, 7], static=static) for each in (apart, stacked))
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    found, right = (score(each, requests, PLANS[2]).loglikelihoods for each in (apart, stacked))
    np.testing.assert_allclose(found, right, rtol=1e-6)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.slow
def test_the_same_is_written(both, static):
    prompts = [Prompt(tuple(map(int, row[:size])), 5) for row, size in zip(TOKENS, (12, 4), strict=True)]
    plans = PLANS[2:3] if static else PLANS
    wrote = [sorted((each.plan, each.prompt, each.tokens) for each in generate(m, prompts, plans)) for m in both]
    assert wrote[0] == wrote[1]


@pytest.mark.slow
def test_random_layers_are_made_apart(monkeypatch):
    config = make_tiny("qwen2, windows in turn").model.config
    stacked = random_model(config)
    monkeypatch.setattr(random_weights, "lie_apart", lambda config, dtype: True)
    model = random_model(config)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), together(model.state), stacked.state)
    kernels = together(model.state)["blocks"]["mlp"]["up_proj"]["kernel"].get_value()
    assert len(np.unique(np.asarray(kernels)[:, 0, 0])) == config.num_hidden_layers
    assert np.isfinite(model.logits(TOKENS, PLANS[2])).all()


def test_training_reads_stacks(both):
    for found, right in zip(*map(jax.tree.leaves, map(host_parameters, both)), strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_store_is_read_into_layers_apart(tmp_path, monkeypatch):
    stacked = make_tiny("grouped-query").model
    parameters = flatten_dict(nnx.to_pure_dict(stacked.state), sep="/")

    def fill(path: str, layer: int | None, out: np.ndarray) -> None:
        out[...] = parameters[path] if layer is None else parameters[path][layer]

    save(tmp_path / "store", stacked.config, fill, huggingface_config={}, dtype="float32")
    monkeypatch.setattr(engine, "lie_apart", lambda config, dtype: True)
    read = load(tmp_path / "store", dtype="float32")
    layers = jax.tree.leaves(read.state["blocks"], is_leaf=lambda leaf: isinstance(leaf, Apart))
    assert all(isinstance(each, Apart) and len(each.layers) == stacked.num_layers for each in layers)
    jax.tree.map(np.testing.assert_array_equal, together(read.state), stacked.state)


def test_large_layers_lie_apart_on_gpus_alone():
    large, small = config_of("llama2-7b"), config_of("llama2-small")
    for platform, expected in (("cpu", False), ("tpu", False), ("gpu", True)):
        with compiling_for(platform):
            assert (lie_apart(large, "bfloat16"), lie_apart(small, "bfloat16")) == (expected, False)
    assert not are_apart(random_model(small).state["blocks"])

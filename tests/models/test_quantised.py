"""Weights in integers: how far they are from the numbers they stand for, and that every path computes with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.engine.masked import score_masked
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.packing import Request
from jaxpaint.engine.random_weights import random_model
from jaxpaint.engine.score import score_plans
from jaxpaint.engine.source import Source
from jaxpaint.generation import Prompt, generate
from jaxpaint.models import checkpoint
from jaxpaint.models.quantised import GROUP, dequantised, kernel_bytes, quantised
from jaxpaint.plans.plan import Plan
from jaxpaint.training.features import Encoded, pooled_features
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import PLANS, VOCAB_SIZE, make_tiny
from tests.models.test_checkpoint import save

MOST = {"int8": 127, "int4": 7}
# Inner sizes of 48 have groups of 16 in int4, hidden ones of 32 a single group.
FAST = (("grouped-query", "int8"), ("grouped-query", "int4"), ("bert", "int8"))
SLOW = (("neox", "int8"), ("qwen2, windows in turn", "int4"), ("bert", "int4"))
MODELS = [*(pytest.param(each, id=" ".join(each)) for each in FAST)]
MODELS += [pytest.param(each, id=" ".join(each), marks=pytest.mark.slow) for each in SLOW]
TOLERANCE = 1e-5
SOME = [PLANS[0], PLANS[1]]


# --- Integers ----------------------------------------------------------------------------------------------


lowered = jax.jit(quantised, static_argnums=1)


def largest_of_group(kernel: np.ndarray, weights: str) -> np.ndarray:
    """For each number the largest in size among those that share its scale, by its definition."""
    features = len(kernel)
    groups = 1 if weights == "int8" else features // np.gcd(features, GROUP)
    found = np.empty_like(kernel)
    for group in range(groups):
        found[group::groups] = np.abs(kernel[group::groups]).max(axis=0)
    return found


@pytest.mark.parametrize("weights", ["int8", "int4"])
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([7, 48, 96]), st.integers(-12, 12), st.floats(0.1, 8))
def test_each_number_is_off_by_half_a_step_at_most(
    weights: Any, seed: int, features: int, exponent: int, tail: float
) -> None:
    """Numbers of any size, with few or many that are far larger than the others, and zeros."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((2, features, 3)) * rng.lognormal(0, tail, (2, features, 3)) * 10.0**exponent
    kernel = np.where(rng.random(kernel.shape) < rng.choice([0, 0.2, 0.97]), 0, kernel).clip(-1e30, 1e30)
    kernel = kernel.astype(np.float32)
    values, scale = lowered(jnp.asarray(kernel), weights)
    assert (values.dtype.name, scale.dtype) == (weights, jnp.float32)
    assert np.abs(np.asarray(values, np.int32)).max() <= MOST[weights]
    found = np.asarray(dequantised(values, scale))
    for layer in (0, 1):
        step = largest_of_group(kernel[layer], weights) / MOST[weights]
        assert (np.abs(found[layer] - kernel[layer]) <= step * 0.5001).all()


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_numbers_that_are_steps_stay(weights: Any) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(-MOST[weights], MOST[weights] + 1, (96, 5))
    steps[:3] = MOST[weights]
    kernel = jnp.asarray(steps * 0.25, jnp.bfloat16 if weights == "int4" else jnp.float32)
    np.testing.assert_allclose(dequantised(*lowered(kernel, weights)), steps * 0.25, rtol=1e-6)


# --- Every path --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory) -> tuple[Model, Model]:
    """A model loaded with integer weights, and one in floating point with the numbers that they stand for."""
    name, weights = request.param
    tiny = tiny_bert() if name == "bert" else make_tiny(name).model
    float_store = save(tiny, tmp_path_factory.mktemp("float") / "store")
    model = jp.load(float_store, dtype="float32", weights=weights)
    assert model.weights == weights
    flat = flatten_dict(checkpoint.restore(float_store), sep="/")
    kept = flatten_dict(nnx.to_pure_dict(model.state), sep="/")
    for path in flat:
        if path.startswith("blocks/") and path.endswith("kernel"):
            assert kept[path].dtype.name == weights
            flat[path] = dequantised(kept.pop(path), kept.pop(path.replace("kernel", "scale")))
        else:
            np.testing.assert_array_equal(kept.pop(path), flat[path])
    assert not kept
    return model, from_parameters(model.config, unflatten_dict(flat, sep="/"))


def same(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


@pytest.mark.slow
def test_logits_and_states(pair: tuple[Model, Model]) -> None:
    model, twin = pair
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (3, 24))
    for plan in (None, Plan.parse("0 {1-3}*2 4")):
        same(model.logits(tokens, plan), twin.logits(tokens, plan))
    for plan in (Plan.parse("0 {(1 {2 3}) 2} 4"), Plan.parse("0 {1-3}*2 4")):
        same(model.logits(tokens, plan, static=True), twin.logits(tokens, plan))
    same(model.hidden_states(tokens), twin.hidden_states(tokens))


@pytest.mark.slow
def test_scores_generation_analyses(pair: tuple[Model, Model]) -> None:
    model, twin = pair
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, VOCAB_SIZE, rng.integers(6, 30)).tolist() for _ in range(8)]
    for found, expected in zip(*(jp.analyse(each, texts, PLANS[:3]) for each in pair), strict=True):
        for name in vars(found):
            same(getattr(found, name), getattr(expected, name))
    if not model.config.capabilities.decoder:
        return
    requests = [Request.of(text[:-3], text[-3:], 64) for text in texts]

    scores, expected_scores = (score_plans(each, requests, SOME).loglikelihoods for each in pair)
    same(scores, expected_scores)
    prompts = [Prompt(tuple(text), 6) for text in texts]
    for plans in (SOME, PLANS[:1]):  # as data, and compiled in

        def written(model: Model, plans: Any = plans) -> dict:
            return {(text.plan, text.prompt): text.tokens for text in generate(model, prompts, plans)}

        assert written(model) == written(twin)


@pytest.mark.few(1)
def test_encoders(pair: tuple[Model, Model]) -> None:
    model, twin = pair
    if model.config.capabilities.decoder:
        return
    rng = np.random.default_rng(2)
    texts = tuple(rng.integers(5, VOCAB_SIZE, length).astype(np.int32) for length in (5, 30, 12))
    encoded = Encoded(texts, tuple(map(np.zeros_like, texts)))
    same(pooled_features(model, encoded, SOME), pooled_features(twin, encoded, SOME))
    same(model.pooled(texts[1][None]), twin.pooled(texts[1][None]))
    masked = [score_masked(each, texts, SOME, mask_token=4) for each in pair]
    for found, expected in zip(*masked, strict=True):
        same(found.pseudo_loglikelihoods, expected.pseudo_loglikelihoods)


# --- Loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.few(1)
def test_the_float_model_is_never_there(tmp_path: Path, monkeypatch, weights: Any) -> None:
    store = save(make_tiny("grouped-query").model, tmp_path / "store")
    read, seen = checkpoint._read, []
    before = {id(array) for array in jax.live_arrays()}

    def watched(path: Any, tensors: Any, *others: Any) -> Any:
        new = [array for array in jax.live_arrays() if id(array) not in before]
        kernels = [array for array in new if array.ndim > 2 and array.dtype == jnp.float32 and array.shape[-2] > 4]
        seen.append((sorted(tensors), len(kernels)))
        return read(path, tensors, *others)

    monkeypatch.setattr(checkpoint, "_read", watched)
    jp.load(store, dtype="float32", weights=weights)
    kernels = [names for names, _ in seen if any(name.endswith("kernel") for name in names if "blocks" in name)]
    assert len(kernels) == 7
    assert all(len(names) == 1 for names in kernels)
    assert {count for _, count in seen} == {0}


@pytest.mark.slow
def test_memory_is_asked_for_as_it_is_kept(tmp_path: Path, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(checkpoint, "require_memory", lambda needed, *_, **__: asked.append(needed))
    monkeypatch.setattr(checkpoint, "READING", 0)
    monkeypatch.setattr(checkpoint, "BESIDE_PARAMETERS", 0)
    monkeypatch.setattr(checkpoint, "LEFT_BEHIND", 0)
    model = random_model(make_tiny("grouped-query").model.config, dtype="float32")
    store, asked[:] = save(model, tmp_path / "store"), []
    sizes = []
    for weights in ("float", "int8", "int4"):
        loaded = jp.load(store, dtype="float32", weights=weights)  # type: ignore[arg-type]
        kept = Source.of(store, "float32", weights).parameter_bytes  # type: ignore[arg-type]
        leaves = jax.tree.leaves(loaded.state)
        assert kept == sum(leaf.size * {"int4": 1, "int8": 2}.get(leaf.dtype.name, 8) // 2 for leaf in leaves)
        sizes.append(kept)
        assert asked[-1] >= kept
    assert asked == sorted(asked, reverse=True)
    assert sizes == sorted(sizes, reverse=True)
    assert kernel_bytes((4096, 11008), "int8") == 4096 * 11008 + 4 * 11008
    assert kernel_bytes((4096, 11008), "int4") == 4096 * 11008 // 2 + 4 * 128 * 11008


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights 'int3' is not one of float, int8, int4"):
        jp.load(tmp_path, weights="int3")  # type: ignore[arg-type]


SCRIPT = """
import sys
import jax, numpy as np
import jaxpaint as jp
from flax import nnx, traverse_util
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.generation import Prompt, generate
from jaxpaint.models.sharding import device_mesh
from jaxpaint.plans.plan import Plan

store = sys.argv[1]
rng = np.random.default_rng(0)
texts = [list(rng.integers(0, 61, rng.integers(4, 33))) for _ in range(24)]
requests = [Request.of(text[:-3], text[-3:], 64) for text in texts]
plans = [Plan.parse("0 {1-3}*2 4")]
for weights in ("int8", "int4"):
    one = jp.load(store, dtype="float32", weights=weights)
    expected = [score(one, requests, plan).loglikelihoods for plan in plans]
    for tensor_parallel in (4,):
        many = jp.load(store, dtype="float32", weights=weights, mesh=device_mesh(tensor_parallel))
        for (name, value), (_, right) in zip(*(sorted(traverse_util.flatten_dict(nnx.to_pure_dict(each.state),
                sep="/").items()) for each in (many, one)), strict=True):
            assert np.array_equal(np.asarray(value), np.asarray(right)), name
            parts = len({str(shard.index) for shard in value.addressable_shards})
            split = "kernel" in name and "blocks" in name
            assert parts == tensor_parallel or not split, name
            if name.endswith("up_proj/scale"):
                assert parts == tensor_parallel
        for plan, right in zip(plans, expected, strict=True):
            difference = right - score(many, requests, plan, batch_tokens=256).loglikelihoods
            assert np.abs(difference).max() < 1e-4, (weights, tensor_parallel, plan, difference)
    print("equal", weights)
"""


@pytest.mark.slow
def test_several_devices_equal_one(tmp_path: Path) -> None:
    store = save(make_tiny("multi-head").model, tmp_path / "store")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, store], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["equal", "int8", "equal", "int4"], done.stderr

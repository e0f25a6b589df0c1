"""Hidden-state analyses of many plans: equal to float64 numpy over each plan's states, and to transformers' states."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util

from jaxpaint.analysis import states as analysis
from jaxpaint.analysis.states import Analysis, analyse, analysis_rows
from jaxpaint.base import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.random_weights import random_model
from jaxpaint.models.llama import LlamaConfig
from jaxpaint.plans.plan import Plan, PlanError
from jaxpaint.plans.tree import prefix_tree
from tests.helpers.decoders import LONGEST, PLANS, VOCAB_SIZE, make_tiny
from tests.helpers.oracle import run_slowly
from tests.helpers.real_assets import DATA, needs_assets

NAMES = ("similarity", "variance", "block_influence", "angular_distance")
TOLERANCE = 2e-6  # float32 states of two executables, compared in float32 and in float64


def expected(states: np.ndarray, lengths: np.ndarray) -> Analysis:
    """The definitions in float64, text by text; states are [states, texts, S, D]."""
    similarity, variance, influence, angular = [], [], [], []
    for text, length in enumerate(lengths):
        x = np.asarray(states[:, text, :length], np.float64)
        flat = x.reshape(len(x), -1)
        similarity.append(_cosines(flat, flat))
        variance.append(flat.var(axis=1))
        influence.append([1 - np.diag(_cosines(before, after)) for before, after in pairwise(x)])
        angular.append(np.arccos(np.clip(_cosines(x[:, -1], x[:, -1]), -1, 1)) / np.pi)
    return Analysis(
        similarity=np.mean(similarity, axis=0),
        variance=np.mean(variance, axis=0),
        block_influence=np.concatenate(influence, axis=1).mean(axis=1),
        angular_distance=np.mean(angular, axis=0),
    )


def _cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


def assert_close(found: Analysis, wanted: Analysis, tolerance: float = TOLERANCE) -> None:
    for name in NAMES:
        values, target = getattr(found, name), getattr(wanted, name)
        assert values.dtype == np.float64
        assert values.shape == target.shape
        scale = np.abs(target).max() if name == "variance" else 1
        off_diagonal = np.abs(values - target)
        if name == "angular_distance":  # numpy's arccos of 1 is off by 1e-8; ours has to be exact
            assert (np.diag(values) == 0).all()
            np.fill_diagonal(off_diagonal, 0)
        assert off_diagonal.max() <= tolerance * scale, name


def padded(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens, lengths


@pytest.fixture(scope="module")
def tiny():
    return make_tiny("grouped-query")


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    draw = np.random.default_rng(1)
    return [draw.integers(0, VOCAB_SIZE, length).tolist() for length in (7, LONGEST, 2, 1, 15, 15, 40)]


@pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
@pytest.mark.slow
def test_every_plan_equals_numpy_over_the_slow_twins_states(variation, texts):
    tiny = make_tiny(variation)
    tokens, lengths = padded(texts)
    block, stacked = layer_stack(tiny.module)
    layer = jax.jit(block, static_argnames="part")
    index = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    context = tiny.module.context(
        jnp.asarray(index), jnp.asarray(np.where(index < lengths[:, None], tokens.shape[1], index + 1))
    )
    embedded = tiny.module.embed(jnp.asarray(tokens), jnp.asarray(index))
    for plan, found in zip(PLANS, analyse(tiny.model, texts, PLANS), strict=True):
        _, states = run_slowly(layer, stacked, plan, embedded, context)
        assert_close(found, expected(np.asarray(states), lengths))


def torch_states(network, text: list[int]) -> np.ndarray:
    """transformers' states of one text, [T + 1, S, D]: what enters each layer, and what leaves the last."""
    states: list[np.ndarray] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output: states.append((inputs[0], output[0] if isinstance(output, tuple) else output)),
        )
        for layer in network.model.layers
    ]
    try:
        with torch.no_grad():
            network(torch.tensor([text]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    tensors = [states[0][0], *(output for _, output in states)]
    return np.stack([tensor.reshape(len(text), -1).numpy() for tensor in tensors])


def all_torch_states(network, texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """transformers' states of texts run one by one, [T + 1, texts, S, D], and their lengths."""
    tokens, lengths = padded(texts)
    states = np.zeros((network.config.num_hidden_layers + 1, *tokens.shape, network.config.hidden_size), np.float32)
    for row, text in enumerate(texts):
        states[:, row, : len(text)] = torch_states(network, text)
    return states, lengths


def test_the_full_plan_equals_numpy_over_transformers_states(tiny, texts):
    (found,) = analyse(tiny.model, texts, [tiny.model.full_plan])
    assert_close(found, expected(*all_torch_states(tiny.torch, texts)), 2e-5)


@pytest.mark.slow
@needs_assets
def test_the_real_model_equals_numpy_over_transformers_states(real_model, real_torch_model):
    lines = (DATA / "lambada_openai.jsonl").read_text().splitlines()[:8]
    texts = [real_model.tokenizer.encode(json.loads(line)["text"]) for line in lines]
    (found,) = analyse(real_model, texts, [real_model.full_plan])
    assert_close(found, expected(*all_torch_states(real_torch_model, texts)), 2e-5)


def test_identities(tiny, texts):
    for plan, found in zip(PLANS, analyse(tiny.model, texts, PLANS), strict=True):
        for matrix, on_itself in ((found.similarity, 1), (found.angular_distance, 0)):
            assert (np.diag(matrix) == on_itself).all()
            assert (matrix == matrix.T).all()
        assert (found.variance > 0).all(), plan
        assert (np.abs(found.similarity) <= 1).all()
        assert found.angular_distance.min() >= 0
        assert found.angular_distance.max() <= 1


@pytest.mark.slow
def test_batches_padding_order_and_other_plans_change_nothing(tiny, texts):
    together = analyse(tiny.model, texts, PLANS)
    shuffled = analyse(tiny.model, texts[::-1], PLANS[::-1], batch_tokens=64)[::-1]
    for plan, first, second in zip(PLANS, together, shuffled, strict=True):
        assert_close(first, second)
        assert_close(analyse(tiny.model, texts, [plan], batch_tokens=1)[0], first)


@pytest.mark.slow
def test_long_texts_of_many_row_lengths():
    config = LlamaConfig("llama", 96, 32, 64, 4, 4, 2, 8, 140, 1e-5, 1e4)
    model = random_model(config, dtype="float32")
    draw = np.random.default_rng(2)
    texts = [draw.integers(0, 96, length).tolist() for length in (140, 31, 130, 33, 139)]
    tokens, lengths = padded(texts)
    plan = Plan.parse("0 {1 2}*9 3")
    (found,) = analyse(model, texts, [plan], batch_tokens=330)
    assert_close(found, expected(np.asarray(model.hidden_states(tokens, plan, lengths)), lengths))


def scaled(model: Model, factor: float) -> Model:
    """All hidden states times a power of two: what is added to them, and the constant of the norms that read them."""
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(model.state), sep="/")
    writers = ("embed/embedding", "blocks/self_attn/o_proj/kernel", "blocks/mlp/down_proj/kernel")
    flat = {name: value * factor if name in writers else value for name, value in flat.items()}
    config = replace(model.config, rms_norm_eps=model.config.rms_norm_eps * factor**2)
    return from_parameters(config, traverse_util.unflatten_dict(flat, sep="/"))


def test_scale_shows_in_the_variance_alone(tiny, texts):
    plan = Plan.parse("0 {1-3} 4")
    (found,), (large,) = (analyse(model, texts, [plan]) for model in (tiny.model, scaled(tiny.model, 8.0)))
    np.testing.assert_allclose(large.variance, 64 * found.variance, rtol=1e-6)
    assert_close(Analysis(**{**vars(large), "variance": found.variance}), found)


def test_a_step_that_changes_nothing_has_no_influence(tiny, texts):
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(tiny.model.state), sep="/")
    for name in ("blocks/self_attn/o_proj/kernel", "blocks/mlp/down_proj/kernel"):
        flat[name] = flat[name].at[2].set(0)
    model = from_parameters(tiny.model.config, traverse_util.unflatten_dict(flat, sep="/"))
    (found,) = analyse(model, texts, [model.full_plan])
    assert found.similarity[2, 3] == 1
    assert found.block_influence[2] < 1e-12
    assert found.angular_distance[2, 3] < 1e-7
    assert (found.block_influence[[0, 1, 3, 4]] > 0.01).all()


def test_small_differences_keep_their_digits(tiny, texts):
    """Of nearly parallel states, where 1 - cos and arccos in float32 would be noise."""
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(tiny.model.state), sep="/")
    for name in ("blocks/self_attn/o_proj/kernel", "blocks/mlp/down_proj/kernel"):
        flat[name] = flat[name].at[2].multiply(1e-4)
    model = from_parameters(tiny.model.config, traverse_util.unflatten_dict(flat, sep="/"))
    (found,) = analyse(model, texts, [model.full_plan])
    tokens, lengths = padded(texts)
    wanted = expected(np.asarray(model.hidden_states(tokens, None, lengths)), lengths)
    assert 0 < wanted.block_influence[2] < 1e-6
    np.testing.assert_allclose(found.block_influence[2], wanted.block_influence[2], rtol=1e-2)
    np.testing.assert_allclose(found.angular_distance[2, 3], wanted.angular_distance[2, 3], rtol=1e-2)


@pytest.mark.slow
def test_bfloat16_states_are_compared_in_float32(tiny, texts):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.to_pure_dict(tiny.model.state))
    model = from_parameters(tiny.model.config, half)
    tokens, lengths = padded(texts)
    (found,) = analyse(model, texts, [model.full_plan])
    states = np.asarray(model.hidden_states(tokens, None, lengths)).astype(np.float64)
    # The embeddings are the same bits in both; later states are rounded where executables differ.
    np.testing.assert_allclose(found.variance[0], expected(states, lengths).variance[0], rtol=1e-6)
    assert_close(found, expected(states, lengths), 1e-2)


@pytest.mark.slow
def test_three_executables_per_batch_shape_whatever_the_plans(tiny, texts):
    compiled = analysis._embed.executables, analysis._step.executables, analysis._compare._cache_size
    for executable in (analysis._embed, analysis._step, analysis._compare):
        executable.clear_cache()
    same_shape = [text[:20] for text in texts]
    whole = [plan for plan in PLANS if not plan.has_sublayers]
    for plans in (PLANS[:1], whole, [Plan.parse("0-4 (0-4)*4"), Plan.parse("{0 {1 {2 {3 4}}}}")]):
        analyse(tiny.model, same_shape, plans)
        assert [count() for count in compiled] == [1, 1, 1]
    analyse(tiny.model, texts, whole)  # 40 tokens take longer rows
    assert [count() for count in compiled] == [2, 2, 2] or [count() for count in compiled] == [3, 3, 3]


def test_held_states_bound_memory(tiny, monkeypatch):
    """Alive while a step runs: a state for each of the longest plan's, and one that is on its way."""
    plans = [Plan.of([1] * length, 4) for length in (19, 12, 3)]
    texts = [[1, 2, 3]] * 12
    few = replace(budgets.CPU, analysis_bytes=21 * 32 * 4 * 32 * 4)  # four rows of 32 positions
    monkeypatch.setattr(budgets, "CPU", few)
    gc.collect()
    alive: list[int] = []
    run = analysis._step

    def watched(*arguments):
        alive.append(sum(array.nbytes for array in jax.live_arrays() if array.shape == (4, 32, 32)))
        assert arguments[5].shape == (4, 32, 32)
        return run(*arguments)

    monkeypatch.setattr(analysis, "_step", watched)
    analyse(tiny.model, texts, plans)
    state = 4 * 32 * 32 * 4
    assert max(alive) <= 21 * state == few.analysis_bytes
    assert len(alive) == 3 * prefix_tree(plans).cost


def test_progress_counts_every_distinct_prefix_once(tiny, texts):
    done: list[int] = []
    analyse(tiny.model, [text[:20] for text in texts], PLANS, progress=done.append)
    assert sum(done) == prefix_tree(PLANS).cost * len(texts) * 32


def test_nan_stays_with_its_plan(tiny, texts):
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(tiny.model.state), sep="/")
    flat["blocks/input_layernorm/scale"] = flat["blocks/input_layernorm/scale"].at[3].set(np.nan)
    model = from_parameters(tiny.model.config, traverse_util.unflatten_dict(flat, sep="/"))
    broken, whole = analyse(model, texts, [Plan.parse("0-4"), Plan.parse("0-2 4")])
    assert np.isfinite(broken.similarity[:4, :4]).all()
    assert np.isfinite(broken.block_influence[:3]).all()
    assert np.isnan(broken.similarity[4:]).all()
    assert np.isnan(broken.variance[4:]).all()
    assert np.isnan(broken.block_influence[3:]).all()
    assert_close(whole, analyse(tiny.model, texts, [Plan.parse("0-2 4")])[0])
    rows = {name: value for name, _, value in analysis_rows(broken, {})}
    assert rows["variance"][4:] == [None, None]
    assert rows["similarity"][0][4] is None


def test_rows_for_the_store(tiny, texts):
    (found,) = analyse(tiny.model, texts, [Plan.parse("0-4")])
    rows = analysis_rows(found, {"task": "lambada_openai", "samples": 7})
    assert [name for name, _, _ in rows] == [each for name in NAMES for each in (f"{name}_stderr", name)]
    assert all(settings == {"task": "lambada_openai", "samples": 7} for _, settings, _ in rows)
    read = {name: json.loads(json.dumps(value, allow_nan=False)) for name, _, value in rows}
    for name in ("similarity", "variance", "block_influence"):
        np.testing.assert_array_equal(read[name], getattr(found, name))
        np.testing.assert_array_equal(read[f"{name}_stderr"], getattr(found, f"{name}_stderr"))
    assert [len(row) for row in read["angular_distance_stderr"]] == [5, 4, 3, 2, 1]
    assert [len(row) for row in read["angular_distance"]] == [5, 4, 3, 2, 1]
    assert read["angular_distance"][1][2] == found.angular_distance[1, 4]


def test_no_plans(tiny, texts):
    assert analyse(tiny.model, texts, []) == ()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text to run"),
        ([[1], []], "text 2 of 2 must be a list of one or more token ids"),
        ([[1, 2.5]], "text 1 of 1 must be a list of one or more token ids, not float64"),
        ([[1], [0, 61]], "text 2 of 2 has token ids 0 to 61, but the vocabulary has 61 entries"),
        ([[-1]], "text 1 of 1 has token ids -1 to -1"),
        ([[1], [1] * 65], "text 2 of 2 has 65 tokens, more than the model's 64 positions"),
    ],
)
def test_texts_that_cannot_be_run(tiny, texts, message):
    with pytest.raises(UserError, match=message):
        analyse(tiny.model, texts, [Plan.parse("0-4")])


def test_plans_that_cannot_be_run(tiny):
    with pytest.raises(PlanError, match="5 layers"):
        analyse(tiny.model, [[1]], [Plan.parse("0-4"), Plan.parse("0-5")])
    with pytest.raises(UserError, match="1025 hidden states, but at most 1024"):
        analyse(tiny.model, [[1]], [Plan.parse("0*1024")])


FOUR_DEVICES = """
import jax
import numpy as np
from flax import nnx, traverse_util
from jaxpaint.analysis.states import BY_NAME, analyse
from jaxpaint.engine.model import from_parameters
from jaxpaint.engine.random_weights import random_model
from jaxpaint.models.llama import LlamaConfig
from jaxpaint.plans.plan import Plan
from jaxpaint.models.sharding import device_mesh, parameter_sharding

config = LlamaConfig("llama", 96, 32, 64, 4, 4, 2, 8, 64, 1e-5, 1e4)
one = random_model(config, dtype="float32")
mesh = device_mesh(2)
place = parameter_sharding(mesh)
flat = traverse_util.flatten_dict(nnx.to_pure_dict(one.state), sep="/")
spread = {name: jax.device_put(value, place(name, value.shape)) for name, value in flat.items()}
many = from_parameters(config, traverse_util.unflatten_dict(spread, sep="/"), mesh=mesh)
texts = [list(range(length)) for length in (3, 30, 9, 17, 5)]
plans = [Plan.parse("0-3"), Plan.parse("0 {1 2} 3")]
probes = [probe for probe in BY_NAME.values() if not probe.fits]
for first, second in zip(*(analyse(model, texts, plans, probes=probes) for model in (one, many)), strict=True):
    for probe in probes:
        found, wanted = (getattr(each, probe.name) for each in (second, first))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=probe.name)
fits = [probe for probe in BY_NAME.values() if probe.fits]
for first, second in zip(*(analyse(model, texts, plans, probes=fits) for model in (one, many)), strict=True):
    np.testing.assert_allclose(first.clock, second.clock, atol=1e-3)
    assert np.isfinite(second.ridge_lens).all()
print("equal")
"""


@pytest.mark.slow
def test_four_devices_give_what_one_gives():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FOUR_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr

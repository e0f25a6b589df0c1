"""Parallel groups over lanes of devices: not run by itself, but by `test_lanes.py`, in a process with eight devices."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from jax.sharding import Mesh

import tests.training.test_classifiers as of_classes
import tests.training.test_decoders as of_answers
from jaxpaint.base.errors import UserError
from jaxpaint.bench import programs
from jaxpaint.bench.hlo import Module
from jaxpaint.bench.shapes import config_of
from jaxpaint.engine import compiled as stack
from jaxpaint.engine import interpreted
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.packing import Request
from jaxpaint.engine.program import enough_room
from jaxpaint.engine.score import score_plans
from jaxpaint.generation import Prompt, generate
from jaxpaint.models.sharding import device_mesh, placed
from jaxpaint.plans.plan import Plan
from jaxpaint.training.tune import host_parameters, tune_decoder, tune_encoder
from tests.engine.test_compiled import CONTEXT, STACKED, X, assert_close, plans, simple_block, slowly
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import PLANS, make_tiny


@partial(jax.jit, static_argnames="room")
def follow(instructions: Any, length: Any, room: int) -> jax.Array:
    return interpreted.run_program(simple_block, STACKED, instructions, length, room, X, CONTEXT)


def spread(model: Model, mesh: Mesh) -> Model:
    return from_parameters(model.config, placed(nnx.to_pure_dict(model.state), mesh), mesh=mesh)


@pytest.mark.parametrize("layer_parallel", [2, 8])
@settings(max_examples=40, deadline=None)
@given(plans)
def test_data_is_the_twin(layer_parallel: int, plan: Plan) -> None:
    instructions, length = as_data(plan, device_mesh(1, layer_parallel))
    for room in {enough_room([plan]), 5}:
        assert_close(follow(instructions, length, room), slowly(plan)[0])


@partial(jax.jit, static_argnames=("plan", "mesh"))
def compiled(plan: Plan, mesh: Mesh) -> Any:
    return stack.run_with_states(simple_block, STACKED, plan, X, CONTEXT, mesh=mesh)


@pytest.mark.slow
@pytest.mark.parametrize("layer_parallel", [2, 8])
@settings(max_examples=15, deadline=None)
@given(plans)
def test_compiled_is_the_twin(layer_parallel: int, plan: Plan) -> None:
    for found, expected in zip(compiled(plan, device_mesh(1, layer_parallel)), slowly(plan), strict=True):
        assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [False, True])
def test_gradients_are_those_of_one_device(at_once: bool) -> None:
    """With a key for each layer that runs, as dropout draws them."""

    def block(parameters: Any, x: jax.Array, context: Any, key: Any) -> jax.Array:
        return simple_block(parameters, x, context) + 0.1 * jax.random.normal(key, x.shape)

    form, layers = stack.with_own_layers(Plan.parse("0 {1-4 2}*2 sum{(1 {2 3}) (4 {0 1})@0.5 3} 4"))

    @partial(jax.jit, static_argnames=("mesh", "remat"))
    def found(stacked: Any, x: jax.Array, mesh: Mesh | None, remat: bool = False) -> Any:
        def loss(stacked: Any, x: jax.Array) -> jax.Array:
            how = {"at_once": at_once, "unroll": not at_once, "remat": remat}
            y = stack.run_training(block, stacked, form, layers, x, CONTEXT, jax.random.key(3), mesh=mesh, **how)
            return jnp.square(y).sum()

        return jax.value_and_grad(loss, (0, 1))(stacked, x)

    expected = jax.tree.leaves(found(STACKED, X, None))
    for mesh, remat in ((device_mesh(1, 8), False), (device_mesh(2, 2), True)):
        for ours, theirs in zip(jax.tree.leaves(found(STACKED, X, mesh, remat)), expected, strict=True):
            assert_close(ours, theirs)


@pytest.mark.slow
class TestTraining:
    def test_a_decoder(self) -> None:
        one = make_tiny("grouped-query").model
        many = spread(one, device_mesh(2, 2))
        plan, asked = Plan.parse("0 {1-3}*2 sum{(1 2) 3}"), (of_answers.examples(), of_answers.SETTINGS)
        trained = [tune_decoder(model, host_parameters(one), plan, *asked) for model in (one, many)]
        expected, found = (nnx.to_pure_dict(each.model.state) for each in trained)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found, expected)
        assert trained[1].model.mesh == many.mesh
        odd = dataclasses.replace(of_answers.SETTINGS, batch_size=7)
        with pytest.raises(UserError, match="which 2 devices cannot share"):
            tune_decoder(many, host_parameters(one), plan, of_answers.examples(), odd)

    def test_an_encoder(self) -> None:
        one = tiny_bert()
        encoded, labels = of_classes._examples()
        arguments = Plan.parse("0 {1-3}*2 4"), encoded, labels, 2, 0, of_classes.SETTINGS
        expected, found = (
            tune_encoder(each, *arguments).logits(encoded) for each in (one, spread(one, device_mesh(1, 4)))
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.ptp(found[:, 0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variation", "tensor_parallel", "layer_parallel"),
    [("grouped-query", 2, 2), ("qwen2, windows in turn", 1, 8), ("neox", 1, 4)],
)
def test_the_same_tokens_are_written(variation: str, tensor_parallel: int, layer_parallel: int) -> None:
    one = make_tiny(variation).model
    many = spread(one, device_mesh(tensor_parallel, layer_parallel))
    rng = np.random.default_rng(0)
    prompts = [Prompt((1, 2, 3, *map(int, rng.integers(0, 61, 3 + i))), 6) for i in range(5)]
    chosen = [
        Plan.parse(text)
        for text in ("0-4", "0 {1-3}*2 4", "0 sum{1 2} 3 4", "0 {(1 {2 3}) 2} 4", "0 (1 {2@2 3} {4 1})@0.5 4")
    ]

    def written(model: Model) -> Any:
        return sorted((found.plan, found.prompt, found.tokens) for found in generate(model, prompts, chosen))

    assert written(many) == written(one)


def test_what_is_not_written_with_over_lanes_is_refused() -> None:
    many = spread(make_tiny("grouped-query").model, device_mesh(1, 4))
    for how in ({"kv": "mean"}, {"static": True}):
        with pytest.raises(UserError, match="not written with over lanes"):
            generate(many, [Prompt((1, 2), 3)], [Plan.parse("0 {1-3} 4")], **how)  # type: ignore[arg-type]


@cache
def requests() -> list[Request]:
    rng = np.random.default_rng(0)
    texts = [list(map(int, rng.integers(0, 61, rng.integers(4, 25)))) for _ in range(24)]
    return [Request.of(text[:-3], text[-3:], 64) for text in texts]


@pytest.mark.parametrize(
    ("variation", "tensor_parallel", "layer_parallel"),
    [
        ("grouped-query", 2, 2),
        pytest.param("qwen2, windows in turn", 1, 8, marks=pytest.mark.slow),
        pytest.param("neox", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_scores_equal_those_of_one_device(variation: str, tensor_parallel: int, layer_parallel: int) -> None:
    one = make_tiny(variation).model
    expected = score_plans(one, requests(), PLANS)
    found = score_plans(spread(one, device_mesh(tensor_parallel, layer_parallel)), requests(), PLANS)
    np.testing.assert_allclose(found.loglikelihoods, expected.loglikelihoods, rtol=0, atol=1e-4)
    assert found.distinct == expected.distinct


def test_an_encoder_and_a_plan_compiled_in() -> None:
    one, tokens = tiny_bert(), np.arange(24).reshape(4, 6)
    many, plan = spread(one, device_mesh(2, 2)), Plan.parse("0 {1-3}*2 sum{(1 2) 3} 4")
    expected = one.logits(tokens, plan)
    for static in (False, True):
        np.testing.assert_allclose(many.logits(tokens, plan, static=static), expected, rtol=0, atol=1e-4)
    states = one.hidden_states(tokens, plan)
    np.testing.assert_allclose(many.hidden_states(tokens, plan), states, rtol=0, atol=1e-4)


@pytest.mark.parametrize("what", ["score", "static"])
def test_one_all_reduce_ends_a_group(what: programs.What, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights are split instead, each member has two. With both, a lane's devices have two, and all lanes one."""
    monkeypatch.setattr(programs, "attention_implementation", lambda *_: "einsum")
    shape, work = config_of("llama2-small"), programs.Work(what, Plan.parse("0 {1-6}*3 7"), 2, 128)

    def all_reduces(tensor_parallel: int, layer_parallel: int) -> tuple[int, int]:
        """In the loop over layers, and in the loop over groups around it."""
        mesh = device_mesh(tensor_parallel, layer_parallel)
        module = Module.parse(programs.lowered(shape, work, mesh, "cpu", "float32").compile().as_text())
        loop = module.layer_loop
        assert loop is not None
        outer, inner = module.around(loop), module.collectives(loop)
        of_groups = module.collectives(outer) - inner if outer else Counter()
        assert {name for name, _ in [*inner, *of_groups]} <= {"all-reduce"}
        return inner.total(), of_groups.total()

    assert all_reduces(1, 4) == (0, 1)
    assert all_reduces(4, 1) == (2, 0)
    assert all_reduces(2, 4) == (2, 1)

"""Gradients through compiled plans are the twin's, and everything that runs in training has a key of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaint.engine import compiled as stack
from jaxpaint.plans.plan import Plan
from tests.engine.test_compiled import CONTEXT, STACKED, X, assert_close, simple_block
from tests.helpers.oracle import run_slowly


class TestGradients:
    @pytest.mark.parametrize(
        "text", ["0 {1-3}*3 4", "{(0 1) sum{2 3}} 4*3", "(0-1)*2 {2 {3 4}}", "0-4", "0 {1@0.5 2@0.5 3}@0.25*2 4"]
    )
    @pytest.mark.few(1)
    def test_equal_those_of_the_twin(self, text: str) -> None:
        plan = Plan.parse(text)

        def loss(executor: Any, stacked: Any) -> jax.Array:
            return jnp.sum(jnp.sin(executor(stacked)))

        ours = jax.jit(jax.grad(partial(loss, lambda p: stack.run(simple_block, p, plan, X, CONTEXT))))(STACKED)
        twin = jax.grad(partial(loss, lambda p: run_slowly(simple_block, p, plan, X, CONTEXT)[0]))(STACKED)
        for name in STACKED:
            assert np.abs(twin[name]).max() > 1e-2
            assert_close(ours[name], twin[name])

    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize("text", ["0 {1-3}*3 4 4", "{(0 1) sum{2 3}} 4*3", "4-0", "0a (1 {2@0.5 3m~1})@0.75*2 4"])
    @pytest.mark.few(1)
    def test_of_training_are_those_of_running(self, text: str, at_once: bool) -> None:
        plan = Plan.parse(text)
        form, layers = stack.with_own_layers(plan)

        def with_key(parameters: Any, x: jax.Array, context: jax.Array, key: None, **portion: Any) -> jax.Array:
            return simple_block(parameters, x, context, **portion)

        def trained(stacked: Any) -> jax.Array:
            return stack.run_training(with_key, stacked, form, layers, X, CONTEXT, None, at_once=at_once).sum()

        found = jax.jit(jax.value_and_grad(trained))(STACKED)
        expected = jax.value_and_grad(lambda p: stack.run(simple_block, p, plan, X, CONTEXT).sum())(STACKED)
        jax.tree.map(assert_close, found, expected)

    def test_unused_layers_have_none(self) -> None:
        gradient = jax.grad(lambda p: stack.run(simple_block, p, Plan.parse("0 2*2"), X, CONTEXT).sum())(STACKED)
        used = np.abs(gradient["weight"]).max(axis=(1, 2)) > 0
        assert used.tolist() == [True, False, True, False, False]


class TestTraining:
    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
    @pytest.mark.few(1)
    def test_everything_that_runs_has_a_key_of_its_own(self, impl: str, at_once: bool) -> None:
        plan, seen = Plan.parse("0-2 {1 2 (3 4)*2}*3 0*4 {(1 0*2) (2 3*2)}*2*2"), []

        def block(parameters: Any, x: jax.Array, context: jax.Array, key: jax.Array) -> jax.Array:
            jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
            return simple_block(parameters, x, context)

        form, layers = stack.with_own_layers(plan)
        key = jax.random.key(0, impl=impl)
        jax.block_until_ready(stack.run_training(block, STACKED, form, layers, X, CONTEXT, key, at_once=at_once))
        jax.effects_barrier()
        assert len(seen) == len(set(seen)) == plan.cost

    def test_plans_that_differ_in_their_layers_have_one_form(self) -> None:
        forms = {stack.with_own_layers(Plan.parse(text))[0] for text in ("0-4", "4-0", "2 0 1 4 3", "1 1 1 1 1")}
        assert forms == {Plan.parse("0-4")}
        form, layers = stack.with_own_layers(Plan.parse("4 {2 (1 0*3)}*2"))
        assert (str(form), layers.tolist()) == ("0 {1 (2 3*3)}*2", [4, 2, 1, 0])

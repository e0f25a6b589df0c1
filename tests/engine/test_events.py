"""A plan as a matrix of events: the compiled plan's values and gradients, for any plan, in one executable."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpaint.engine import compiled as stack
from jaxpaint.engine.events import Events, events_of, run_events, stacked_events
from jaxpaint.plans.plan import Plan
from tests.engine.test_compiled import CONTEXT, STACKED, X, assert_close, simple_block, whole_plans

SIZE = 8
few_events = whole_plans.filter(lambda plan: plan.cost <= SIZE)


def loss(run, stacked, x):
    result = run(simple_block, stacked, x=x, context=CONTEXT)
    return (result * jnp.arange(result.size).reshape(result.shape)).mean(), result


def both(run):
    (_, result), gradients = jax.value_and_grad(partial(loss, run), (0, 1), has_aux=True)(STACKED, X)
    return result, gradients


@jax.jit
def as_events(events: Events):
    return both(partial(run_events, events=events))


@settings(max_examples=15)
@given(few_events)
def test_values_and_gradients_are_the_compiled_plans(plan) -> None:
    expected = jax.jit(lambda: both(partial(stack.run, plan=plan)))()
    found = as_events(events_of(plan, SIZE))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(ours, theirs)


def test_one_executable_for_all_plans() -> None:
    as_events.clear_cache()
    for text in ("0", "0 1 2", "{0 1}*3", "sum{0 (1 2)} 3", "{0 {1 2} sum{3 4}}", "0 {1@2 (2 3)}@0.5*2"):
        as_events(events_of(Plan.parse(text), SIZE))
    assert as_events._cache_size() == 1


def test_plans_run_side_by_side() -> None:
    texts = ("0 1 2", "{0 1}*3", "sum{0 (1 2)} 3")
    events = stacked_events(map(Plan.parse, texts))
    found = jax.vmap(lambda each: run_events(simple_block, STACKED, each, X, CONTEXT))(events)
    for text, ours in zip(texts, found, strict=True):
        assert_close(ours, stack.run(simple_block, STACKED, Plan.parse(text), X, CONTEXT))


def test_what_reads_what() -> None:
    layers, weights = events_of(Plan.parse("0 {1 2}"))
    assert layers.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(weights, [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0.5, 0.5]])
    layers, weights = events_of(Plan.parse("sum{0 1}"), 3)
    assert layers.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(weights[-1], [1, 1, 0])


def test_a_plan_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"the plan \{0 1\}\*3 runs 6 layers, more than 4"):
        events_of(Plan.parse("{0 1}*3"), 4)

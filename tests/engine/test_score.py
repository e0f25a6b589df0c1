"""Many plans at once: equal to each alone, every distinct prefix once, few executables."""

from __future__ import annotations

import gc
from itertools import product

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.engine import head, walk
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import pack_for, score, score_plans
from jaxpaint.plans import strategies
from jaxpaint.plans.plan import Plan, PlanError
from jaxpaint.plans.tree import prefix_tree, units
from tests.helpers.decoders import PLANS, make_tiny

STATE_BYTES = 128 * 32 * 4  # of a batch of 128 tokens of the tiny model


@pytest.fixture(scope="module")
def tiny():
    return make_tiny("grouped-query")


@pytest.fixture(scope="module")
def requests(tiny) -> list[Request]:
    draw = np.random.default_rng(0)
    shared = [int(token) for token in draw.integers(0, 40, 12)]
    found = []
    for number in range(24):
        context = [*shared[: 4 + number % 8], *(int(token) for token in draw.integers(0, 40, number % 5))]
        found.append(Request.of(context, [int(token) for token in draw.integers(0, 40, 1 + number % 3)], 64))
    return found


@pytest.mark.parametrize("held_states", [0, 1, 32])
@pytest.mark.few(1)
def test_every_plan_scores_as_it_does_alone(tiny, requests, held_states):
    found = score_plans(tiny.model, requests, PLANS, batch_tokens=128, held_bytes=held_states * STATE_BYTES)
    for plan, loglikelihoods, greedy in zip(PLANS, found.loglikelihoods, found.is_greedy, strict=True):
        alone = score(tiny.model, requests, plan)
        np.testing.assert_allclose(loglikelihoods, alone.loglikelihoods, atol=1e-4)
        assert (greedy == alone.is_greedy).all()


def test_counts_of_work(tiny, requests):
    whole = score_plans(tiny.model, requests, PLANS, batch_tokens=128)
    assert whole.separate == sum(plan.applications for plan in PLANS) * sum(len(request.tokens) for request in requests)
    assert whole.distinct < whole.executed < whole.separate
    again = score_plans(tiny.model, requests, PLANS, batch_tokens=128, held_bytes=0)
    assert again.executed > whole.executed


def test_four_executables_per_batch_shape(tiny, requests):
    """Embedding, series, groups, head. Sublayers have one of their own, and those that share norms another."""
    executables = (walk._embed_stream, walk.segment, head._at_scored)
    for executable in executables:
        executable.clear_cache()
    shapes = {(batch.tokens.shape, batch.lookback) for batch in pack_for(tiny.model, requests, 128)}
    for plans, segments in (([plan for plan in PLANS if not plan.has_sublayers], 2), (PLANS, 4)):
        score_plans(tiny.model, requests, plans, batch_tokens=128)
        counts = [executable.executables() for executable in executables]
        assert counts == [len(shapes), segments * len(shapes), len(shapes)]


def test_held_states_bound_memory(tiny, requests, monkeypatch):
    """Alive while a stretch runs: the states held at branch points, and the one that it starts from."""
    plans = [Plan.of(*layers) for layers in product((1, 2), repeat=5)]
    assert prefix_tree(plans).held == 5
    (batch,) = pack_for(tiny.model, requests[:2], 128)
    shape = (*batch.tokens.shape, tiny.model.config.hidden_size)
    alive: list[int] = []
    run = walk.segment

    def states() -> int:
        return sum(array.shape == shape for array in jax.live_arrays())

    def watched(*arguments):
        alive.append(states() - left_by_others)
        return run(*arguments)

    gc.collect()
    left_by_others = states()

    monkeypatch.setattr(walk, "segment", watched)
    peaks = []
    for held_states in (1, 100):
        held_bytes = held_states * batch.tokens.size * tiny.model.config.hidden_size * 4
        score_plans(tiny.model, requests[:2], plans, batch_tokens=128, held_bytes=held_bytes)
        peaks.append(max(alive))
        alive.clear()
    assert peaks[0] <= 1 + 2 < 5 <= peaks[1] <= 5 + 2


def test_loops_and_starts_hold_next_to_nothing():
    """Chains with a branch at every layer or iteration: the chain goes on last."""
    for name in ("skip", "looped-parallel", "random", "skip-one"):
        plans = [variant.plan for variant in strategies.family(name, 32, iterations=range(1, 29))]
        assert prefix_tree(plans).held <= 2


def test_nan_stops_no_other_plan(tiny, requests):
    broken = jax.tree.map(lambda leaf: leaf, tiny.model.state)
    scale = broken["blocks"]["input_layernorm"]["scale"]
    scale.set_value(scale.get_value().at[3].set(np.nan))
    model = type(tiny.model)(tiny.model.config, tiny.model.graphdef, broken)
    found = score_plans(model, requests, [Plan.parse("0-4"), Plan.parse("0-2 4")])
    assert np.isnan(found.loglikelihoods[0]).all()
    np.testing.assert_allclose(
        found.loglikelihoods[1], score(tiny.model, requests, Plan.parse("0-2 4")).loglikelihoods, atol=1e-4
    )


def test_a_layer_the_model_lacks(tiny, requests):
    with pytest.raises(PlanError, match="5 layers"):
        score_plans(tiny.model, requests, [Plan.parse("0-4"), Plan.parse("0-5")])


def test_the_papers_strategies_share_as_much_as_counted():
    """The distinct layer applications of the paper's sets at 32 layers."""
    names = ("full", "skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel", "skip-one", "switch")
    main = [variant.plan for name in names for variant in strategies.family(name, 32)]
    looped = [variant.plan for variant in strategies.family("looped-parallel", 32, iterations=range(1, 29))]
    ratios = [
        round(sum(plan.cost for plan in plans) / prefix_tree(plans).cost, 1)
        for plans in (main, looped, [*main, *looped])
    ]
    assert (len(main), len(looped), ratios) == (304, 448, [1.6, 10.5, 7.7])


series_plans = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(lambda layers: Plan.of(layers))


@given(st.lists(series_plans, min_size=1, max_size=8))
@settings(max_examples=100)
def test_tree_cost_is_the_number_of_distinct_prefixes(plans):
    prefixes = {plan.sequence()[:stop] for plan in plans for stop in range(1, plan.cost + 1)}
    assert prefix_tree(plans).cost == len(prefixes)


def test_units_unroll_repeats():
    assert Plan.of(*units(Plan.parse("0 ({1 2} 3)*2 4*2"))) == Plan.parse("0 {1 2} 3 {1 2} 3 4 4")

"""The executors: compiled plan = plan as data = plain Python, the laws of plans, compilations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.engine import compiled as stack
from jaxpaint.engine import interpreted
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.program import Program, enough_room
from jaxpaint.engine.whole import logits
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, PlanError, Repeat, Series, Weighted
from jaxpaint.plans.strategies import STRATEGIES, Variant, family
from tests.helpers.decoders import LONGEST, NUM_LAYERS, VOCAB_SIZE, make_tiny
from tests.helpers.oracle import run_slowly

MAX_COST = 40

wholes = st.builds(Layer, st.integers(0, NUM_LAYERS - 1))
indices = st.integers(0, NUM_LAYERS - 1)
halves = st.builds(Layer, indices, st.sampled_from(["attention", "mlp"]))
layer_nodes = wholes | halves | st.builds(Layer, indices, st.just("mlp"), indices)


def _extend(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(children, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.builds(Series, some),
        st.builds(Parallel, some, st.sampled_from(["mean", "sum"])),
        st.builds(Repeat, children, st.integers(1, 3)),
        st.builds(Weighted, children, st.sampled_from([0.5, 1.25, -0.25])),
    )


def _plans_of(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Plan]:
    return st.recursive(nodes, _extend, max_leaves=10).map(Plan.of).filter(lambda plan: plan.cost <= MAX_COST)


plans, whole_plans = _plans_of(layer_nodes), _plans_of(wholes)
flat_plans = st.one_of(
    st.lists(layer_nodes, min_size=1, max_size=12),
    st.lists(st.one_of(layer_nodes, st.builds(Parallel, st.lists(layer_nodes, min_size=1, max_size=4).map(tuple)))),
).map(lambda nodes: Plan.of(*(nodes or [0])))


# A block as simple as a block can be, in which every layer, the order of layers and the context matter.


def simple_block(
    parameters: dict[str, Any], x: jax.Array, context: jax.Array, part: str = "whole", beside: Any = None
) -> jax.Array:
    if part != "mlp":
        x = x + jnp.tanh(x @ parameters["weight"] + parameters["bias"]) * context
    shared = parameters["bias"] if beside is None else (parameters["bias"] + beside["bias"]) / 2
    return x if part == "attention" else x + 0.5 * jnp.sin((x * shared) @ parameters["weight"].T)


def _simple_inputs() -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    weight, bias, x, context = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(0), 4),
            [(NUM_LAYERS, 4, 4), (NUM_LAYERS, 4), (2, 3, 4), (2, 3, 1)],
            strict=True,
        )
    )
    # Small, because forty layers of larger ones amplify the last bit of a float beyond any tolerance.
    return {"weight": 0.25 * weight, "bias": bias}, x, context


STACKED, X, CONTEXT = _simple_inputs()


@partial(jax.jit, static_argnames="plan")
def compiled(stacked: Any, plan: Plan, x: jax.Array, context: jax.Array) -> Any:
    return stack.run_with_states(simple_block, stacked, plan, x, context)


@partial(jax.jit, static_argnames="room")
def as_data(stacked: Any, instructions: Any, length: Any, room: int, x: jax.Array, context: jax.Array) -> jax.Array:
    return interpreted.run_program(simple_block, stacked, instructions, length, room, x, context)


def run_as_data(plan: Plan, room: int = 0) -> jax.Array:
    program = Program.of(plan)
    return as_data(STACKED, program.instructions, program.length, max(room, enough_room([plan])), X, CONTEXT)


def slowly(plan: Plan) -> tuple[jax.Array, jax.Array]:
    return run_slowly(simple_block, STACKED, plan, X, CONTEXT)


def assert_close(ours: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value: sums of residual updates cancel, so single ones may be small."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def by_hand(node: Node, x: jax.Array) -> jax.Array:
    """What a plan means, written down from its definition in `docs/plans.md`."""
    match node:
        case Layer(index, part, beside):
            other = None if beside is None else {"bias": STACKED["bias"][beside]}
            return simple_block({name: leaf[index] for name, leaf in STACKED.items()}, x, CONTEXT, part, other)
        case Series(items):
            for item in items:
                x = by_hand(item, x)
            return x
        case Repeat(body, times):
            for _ in range(times):
                x = by_hand(body, x)
            return x
        case Parallel(branches, "mean"):
            return sum(by_hand(branch, x) for branch in branches) / len(branches)
        case Parallel(branches):
            return x + sum(by_hand(branch, x) - x for branch in branches)
        case Weighted(body, weight):
            return x + weight * (by_hand(body, x) - x)


class TestExecutorsAgree:
    @settings(max_examples=20)
    @given(plans)
    def test_compiled_is_the_twin(self, plan: Plan) -> None:
        expected, expected_states = slowly(plan)
        result, states = compiled(STACKED, plan, X, CONTEXT)
        assert states.shape == expected_states.shape
        assert_close(result, expected)
        assert_close(states, expected_states)
        assert_close(stack.run(simple_block, STACKED, plan, X, CONTEXT), expected)

    @settings(max_examples=100)
    @given(plans)
    def test_data_is_the_twin(self, plan: Plan) -> None:
        assert_close(run_as_data(plan, room=5), slowly(plan)[0])

    @settings(max_examples=60)
    @given(plans)
    def test_twin_is_the_definition(self, plan: Plan) -> None:
        assert_close(slowly(plan)[0], by_hand(plan.root, X))

    def test_run_returns_the_result_alone(self) -> None:
        plan = Plan.parse("0 {1 (2 3)*2} 4")
        assert_close(stack.run(simple_block, STACKED, plan, X, CONTEXT), slowly(plan)[0])

    @pytest.mark.parametrize(
        "text",
        [
            "4-0 2*3",
            "0 {1-3}*3 4",
            "{1 {2 (3 0)*2} sum{1 2}}*2",
            "{(0 1) 2 (3 4)}",
            "0@0.5*2 (1 {2@2 3})@-0.5 4",
            "0a {1m 2a}*2 3 4m",
            "0 lp{1 2} 3m~4*2 4",
        ],
    )
    @pytest.mark.few(1)
    def test_the_llama_block(self, text: str) -> None:
        """The real block: stacked `nnx` parameters, and a context that is a tuple of arrays."""
        plan, llama = Plan.parse(text), _llama("grouped-query")
        expected, expected_states = llama.slowly(plan)
        executor = partial(stack.run_with_states, llama.block, llama.stacked, plan)
        result, states = jax.jit(executor)(llama.x, llama.context)
        assert_close(result, expected)
        assert_close(states, expected_states)


@dataclass(frozen=True)
class _Llama:
    """A tiny model's layers and what they run on."""

    block: Callable[..., jax.Array]
    stacked: Any
    x: jax.Array
    context: Any

    def slowly(self, plan: Plan) -> tuple[jax.Array, jax.Array]:
        return run_slowly(self.block, self.stacked, plan, self.x, self.context)


@cache
def _llama(variation: str) -> _Llama:
    """The layers on the tokens of `_TOKENS`."""
    module = make_tiny(variation).module
    block, stacked = layer_stack(module)
    batch, length = _TOKENS.shape
    context = module.context(jnp.tile(jnp.arange(length), (batch, 1)), jnp.full((batch, length), length))
    return _Llama(
        jax.jit(block, static_argnames="part"),
        stacked,
        module.embed(jnp.array(_TOKENS), jnp.arange(length)[None]),
        context,
    )


_TOKENS = np.random.default_rng(3).integers(0, VOCAB_SIZE, (2, 7))


class TestLaws:
    @given(st.integers(0, NUM_LAYERS - 1), st.sampled_from(["mean", "sum"]))
    def test_one_member_group_is_its_layer(self, index: int, combine: Any) -> None:
        assert_close(run_as_data(Plan.of(Parallel((Layer(index),), combine))), run_as_data(Plan.of(index)), 1e-6)

    @settings(max_examples=30)
    @given(st.lists(plans.map(lambda plan: plan.root), min_size=2, max_size=3).map(tuple))
    def test_sum_law(self, branches: tuple[Node, ...]) -> None:
        """`sum` is the input plus n times the mean branch update."""
        mean, total = (run_as_data(Plan.of(Parallel(branches, kind)), 5) for kind in ("mean", "sum"))
        assert_close(total, X + len(branches) * (mean - X))

    @settings(max_examples=30)
    @given(plans, plans)
    def test_series_composes(self, first: Plan, second: Plan) -> None:
        between, _ = slowly(first)
        program = Program.of(second)
        expected = as_data(STACKED, program.instructions, program.length, 4, between, CONTEXT)
        assert_close(run_as_data(Plan.of(first, second), 4), expected)

    @settings(max_examples=30)
    @given(plans, st.integers(1, 4))
    def test_repeat_is_series(self, plan: Plan, times: int) -> None:
        assert_close(run_as_data(Plan.of(Repeat(plan.root, times)), 4), run_as_data(Plan.of(*[plan] * times), 4))

    @settings(max_examples=30)
    @given(st.lists(plans.map(lambda plan: plan.root), min_size=2, max_size=4), st.randoms())
    def test_branches_have_no_order(self, branches: list[Node], random: Any) -> None:
        shuffled = random.sample(branches, len(branches))
        one, other = (run_as_data(Plan.of(Parallel(tuple(group))), 5) for group in (branches, shuffled))
        assert_close(one, other)


class TestStates:
    @pytest.mark.parametrize(
        ("text", "steps"),
        [("0-4", 5), ("2", 1), ("0 {1-3} 4", 3), ("0 {1-3}*3 4", 5), ("(0 {1 2})*3", 6), ("(0-1)*2*2 3", 9)],
    )
    def test_shapes(self, text: str, steps: int) -> None:
        """The input, then one state per layer or group of the top series, loops unrolled."""
        result, states = compiled(STACKED, Plan.parse(text), X, CONTEXT)
        assert states.shape == (1 + steps, *X.shape)
        np.testing.assert_array_equal(states[0], X)
        np.testing.assert_array_equal(states[-1], result)

    def test_are_those_along_the_way(self) -> None:
        _, states = compiled(STACKED, Plan.parse("0 {1-3}*2 4"), X, CONTEXT)
        for step, prefix in enumerate(["0", "0 {1-3}", "0 {1-3}*2", "0 {1-3}*2 4"], start=1):
            assert_close(states[step], by_hand(Plan.parse(prefix).root, X))

    def test_of_the_whole_model_are_those_of_transformers(self) -> None:
        tiny, llama = make_tiny("grouped-query"), _llama("grouped-query")
        _, states = stack.run_with_states(llama.block, llama.stacked, tiny.model.full_plan, llama.x, llama.context)
        with torch.no_grad():
            theirs = tiny.torch.base_model(torch.tensor(_TOKENS), output_hidden_states=True).hidden_states
        assert len(states) == len(theirs)
        for ours, expected in zip(states[:-1], theirs[:-1], strict=True):  # their last one is after the norm
            assert_close(ours, expected.numpy())
        assert_close(tiny.module.norm(states[-1]), theirs[-1].numpy())


def _variants(*, series: bool) -> list[Variant]:
    found = [variant for name in STRATEGIES for variant in family(name, NUM_LAYERS, seeds=range(3))]
    return [variant for variant in found if variant.plan.is_sequence == series]


class TestStrategies:
    """Every strategy of `jaxpaint.plans.strategies` on a whole model, through `Model.logits`."""

    @pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
    @pytest.mark.parametrize("variant", _variants(series=True), ids=lambda variant: variant.label)
    def test_series_are_transformers_with_its_layers_rearranged(
        self, variation: str, variant: Variant, texts: np.ndarray
    ) -> None:
        tiny = make_tiny(variation)
        expected = tiny.torch_logits(texts, layers=variant.plan.sequence())
        np.testing.assert_allclose(tiny.model.logits(texts, variant.plan), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
    @pytest.mark.parametrize("variant", _variants(series=False), ids=lambda variant: variant.label)
    @pytest.mark.few(3)
    def test_others_are_the_twin(self, variation: str, variant: Variant) -> None:
        tiny = make_tiny(variation)
        expected = tiny.module.logits(_llama(variation).slowly(variant.plan)[0])
        np.testing.assert_allclose(tiny.model.logits(_TOKENS, variant.plan), expected, rtol=1e-4, atol=1e-4)

    def test_identity(self, texts: np.ndarray) -> None:
        model = make_tiny("grouped-query").model
        for plan in (model.full_plan, Plan.parse("0-4"), Plan.parse("0 {1} (2 sum{3})*1 4")):
            np.testing.assert_allclose(model.logits(texts, plan), model.logits(texts), rtol=1e-6, atol=1e-6)

    def test_layers_outside_the_model(self, texts: np.ndarray) -> None:
        with pytest.raises(PlanError, match="5 layers"):
            make_tiny("grouped-query").model.logits(texts, Plan.parse("0-5"))


class TestCompilations:
    def test_one_executable_for_80_series_and_one_for_20_plans_with_groups(self) -> None:
        """Series of any length and order, and one level of parallel groups, on one batch shape."""
        random = np.random.default_rng(0)
        orders = [Plan.of(random.integers(0, NUM_LAYERS, random.integers(6, 30)).tolist()) for _ in range(80)]
        groups = [Plan.of(0, Repeat(Parallel((Layer(1), Layer(i % 4), Layer(2))), 1 + i), 4) for i in range(20)]
        as_data.clear_cache()
        for plans, executables in ((orders, 1), (groups, 2)):
            assert len(set(plans)) == len(plans)
            for plan in plans:
                run_as_data(plan)
            assert as_data._cache_size() == executables

    def test_one_executable_for_plans_nested_to_any_likely_depth_and_one_for_deeper_ones(self) -> None:
        as_data.clear_cache()
        likely = "{0 {1 2}}", "{{0 1} {1 2}}*3 4", "{0 (1 {1 3})*2}", "{0 {1 {2 {3 4}}}}"
        deeper = "{0 {1 {2 {3 {4 0}}}}}", "{0 {1 {2 {3 {4 {0 1}}}}}}"
        for number, texts in enumerate((("0", "0*5000"), ("{0 1}", "{0 1}*3 4"), likely, deeper), 1):
            for text in texts:
                run_as_data(Plan.parse(text))
            assert as_data._cache_size() == number

    def test_logits_compile_once_per_shape_for_series_and_once_for_groups(self) -> None:
        model = make_tiny("grouped-query").model
        tokens = np.zeros((3, 11), int)
        before = logits.executables()
        groups = [variant for variant in _variants(series=False) if not variant.plan.has_sublayers]
        for number, variants in enumerate((_variants(series=True), groups), 1):
            for variant in variants:
                model.logits(tokens, variant.plan)
                model.logits(tokens, variant.plan, lengths=[3, 11, 1])
            assert logits.executables() == before + number

    def test_a_static_plan_traces_each_shape_of_node_once(self) -> None:
        """A long series is one scan, a wide group one vmap: code does not grow with the plan."""
        traces = 0

        def counted(parameters: Any, x: jax.Array, context: jax.Array) -> jax.Array:
            nonlocal traces
            traces += 1
            return simple_block(parameters, x, context)

        def count(text: str) -> int:
            nonlocal traces
            traces = 0
            jax.jit(lambda x: stack.run(counted, STACKED, Plan.parse(text), x, CONTEXT)).lower(X)
            return traces

        assert count("0-4 3-1 2 2 2 0-4") == count("0-1")
        assert count("{0-4}*50") == count("{0-1}*2")


class TestCausality:
    @settings(max_examples=25)
    @given(st.data(), st.sampled_from(["grouped-query", "sliding window"]))
    def test_padding_and_later_tokens_change_nothing(self, data: st.DataObject, variation: str) -> None:
        model = make_tiny(variation).model
        plan = data.draw(flat_plans)
        lengths = data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=2))
        seed = data.draw(st.integers(0, 9))
        tokens, others = np.random.default_rng(seed).integers(0, VOCAB_SIZE, (2, 2, 12))
        index = np.arange(12)[None, :]
        padded = np.where(index < np.array(lengths)[:, None], tokens, others)
        expected = np.asarray(model.logits(tokens, plan))
        with_lengths = np.asarray(model.logits(padded, plan, lengths))
        later_changed = np.asarray(model.logits(padded, plan))
        for row, length in enumerate(lengths):
            assert_close(with_lengths[row, :length], expected[row, :length])
            assert_close(later_changed[row, :length], expected[row, :length])

    def test_earlier_tokens_do_change_something(self, texts: np.ndarray) -> None:
        model, changed = make_tiny("grouped-query").model, texts.copy()
        changed[:, 0] = (changed[:, 0] + 1) % VOCAB_SIZE
        difference = np.abs(np.asarray(model.logits(texts)) - np.asarray(model.logits(changed))).max(axis=(0, 2))
        assert (difference > 1e-4).all()

    @pytest.mark.parametrize(("plan", "reach"), [("0", 5), ("0 1", 9), ("{0-4}", 5)])
    def test_a_sliding_window_forgets(self, plan: str, reach: int, texts: np.ndarray) -> None:
        """One layer reaches `sliding_window` tokens, itself counted; each further one in series 4 more."""
        model, changed = make_tiny("sliding window").model, texts.copy()
        changed[:, 0] = (changed[:, 0] + 1) % VOCAB_SIZE
        ours, other = (np.asarray(model.logits(tokens, Plan.parse(plan))) for tokens in (texts, changed))
        difference = np.abs(ours - other).max(axis=(0, 2))
        assert (difference[:reach] > 1e-5).all()
        np.testing.assert_allclose(difference[reach:], 0, atol=1e-6)

    def test_a_batch_row_does_not_see_the_others(self, texts: np.ndarray) -> None:
        model = make_tiny("grouped-query").model
        together = np.asarray(model.logits(texts, lengths=[LONGEST, 3, 15]))
        alone = np.asarray(model.logits(texts[1:2, :3]))
        assert_close(together[1, :3], alone[0])

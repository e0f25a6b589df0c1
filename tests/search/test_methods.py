"""Methods on scores that are known: what they find, what they ask for, and that they keep within the budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Layer, Plan
from jaxpaint.plans.tree import prefix_tree, units
from jaxpaint.search.budget import Budget, Limit
from jaxpaint.search.clock import Clock
from jaxpaint.search.methods import METHODS, Generation, Space, best, halving, without_middle
from jaxpaint.search.mutations import MUTATIONS, alike, crossed, fitted, mutated, without_random_layers

LAYERS = 10
USEFUL = {0, 1, 4, 7, 8, 9}
CLOCK = Clock(2.5, 0.45, 0.2, 0.35)  # 7 layers in series take 9.5, 10 in two groups of five 9.7


def additive(plan: Plan) -> float:
    """Every useful layer is worth one, every other one costs a little, and every other order costs."""
    order = [int(str(Plan.of(step))) for step in plan.root.items if str(Plan.of(step)).isdigit()]
    flat = list(plan.sequence()) if plan.is_sequence else order
    kept = sum(layer in flat for layer in USEFUL)
    return kept - 0.01 * len(flat) - 0.1 * sum(a >= b for a, b in itertools.pairwise(flat))


def searched(name: str, space: Space, score: Callable[[Plan], float]) -> list[tuple[Generation, list[float]]]:
    """Every generation that a method asks for, with its scores."""
    method, found = METHODS[name](space), []
    wanted = next(method, None)
    while wanted is not None:
        scores = [score(plan) for plan in wanted.plans]
        found.append((wanted, scores))
        try:
            wanted = method.send(scores)
        except StopIteration:
            wanted = None
    return found


@pytest.mark.parametrize("name", ["greedy", "beam", "blocks", "evolution", "halving"])
@pytest.mark.few(3)
def test_the_planted_plan_is_found(name: str) -> None:
    space = Space(LAYERS, Limit("cost", len(USEFUL)), (without_middle(LAYERS, 4),), seed=3, plans=400)
    asked = searched(name, space, additive)
    fitting = {p: s for wanted, scores in asked for p, s in zip(wanted.plans, scores, strict=True) if p.cost <= 6}
    assert best(list(fitting), list(fitting.values()), 1) == (Plan.of(sorted(USEFUL)),)


def test_random_plans_find_less_than_a_search() -> None:
    space = Space(LAYERS, Limit("cost", len(USEFUL)), plans=20)
    ((wanted, scores),) = searched("random", space, additive)
    assert len(set(wanted.plans)) == 20
    assert {plan.cost for plan in wanted.plans} == {6}
    assert max(scores) < additive(Plan.of(sorted(USEFUL)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "limit", [Limit("cost", 7), Limit("depth", 7), Limit("cost", 13), Limit("latency", 9.5, CLOCK)], ids=str
)
@pytest.mark.few(4)
def test_what_is_asked_for_fits_and_is_asked_again_alike(name: str, limit: Limit) -> None:
    """All but steps on the way to the budget, and single blocks that teach, are within it."""
    space = Space(LAYERS, limit, () if limit.layers > LAYERS else (without_middle(LAYERS, 3),), plans=60, width=3)

    def score(plan: Plan) -> float:
        return Random(alike(plan)).random()

    asked = searched(name, space, score)
    assert asked == searched(name, space, score)
    plans = [plan for wanted, _ in asked for plan in wanted.plans]
    assert all(plan.validate(LAYERS) for plan in plans)
    if name in ("evolution", "halving", "random"):
        assert all(limit.fits(plan) for plan in plans)
        assert len({alike(plan) for plan in asked[0][0].plans}) == len(asked[0][0].plans)
    if name == "sublayers" and limit.layers > LAYERS:
        assert not asked, "it only leaves out"
        return
    assert any(limit.fits(plan) for plan in asked[-1][0].plans)
    if name not in ("greedy", "beam", "sublayers"):
        assert len({alike(plan) for plan in plans}) <= 60 + 3  # the rounds' rest


def test_halving_asks_a_third_on_three_times_as_many() -> None:
    asked = searched("halving", Space(LAYERS, Limit("cost", 6), plans=90), additive)
    assert [(len(wanted.plans), wanted.share) for wanted, _ in asked] == [(90, 1 / 9), (30, 1 / 3), (10, 1.0)]
    for (before, scores), (after, _) in itertools.pairwise(asked):
        assert set(after.plans) == set(best(before.plans, scores, len(after.plans)))
    assert halving.__doc__


def test_greedy_takes_the_best_step_each_time() -> None:
    def score(plan: Plan) -> float:
        return Random(str(plan)).random()

    asked = searched("greedy", Space(5, Limit("cost", 2)), score)
    kept = tuple(range(5))
    for wanted, _ in asked:
        steps = [kept[:place] + kept[place + 1 :] for place in range(len(kept))]
        assert {plan.sequence() for plan in wanted.plans} == set(steps)
        kept = max(steps, key=lambda step: score(Plan.of(step)))
    assert len(kept) == 2


def test_sublayers_go_one_by_one_and_the_planted_ones_are_found() -> None:
    """Attentions of even layers and all feed-forwards but one are worth something: what is worth least goes first."""
    worth = {(layer, "attention"): 0.1 * layer if layer % 2 else 5 + layer for layer in range(LAYERS)}
    worth |= {(layer, "mlp"): 4 + layer for layer in range(1, LAYERS)} | {(0, "mlp"): 0.05}

    def score(plan: Plan) -> float:
        parts = {"whole": ("attention", "mlp"), "attention": ("attention",), "mlp": ("mlp",)}
        return sum(worth[step.index, part] for step in plan.root.items for part in parts[step.part])

    asked = searched("sublayers", Space(LAYERS, Limit("cost", 7)), score)
    assert [len(wanted.plans) for wanted, _ in asked] == [2 * LAYERS - gone for gone in range(6)]
    wanted, scores = asked[-1]
    assert str(*best(wanted.plans, scores, 1)) == "0a 1m 2 3m 4 5m 6 7m 8 9m"
    assert not searched("sublayers", Space(LAYERS, Limit("cost", 12)), score), "nothing to leave out"


def test_greedy_repeats_blocks_while_that_helps() -> None:
    """Two repeats of layer 2 are worth most: found in two steps, and a third is the last that is tried."""

    def score(plan: Plan) -> float:
        return min(plan.sequence().count(2), 3) - 0.01 * plan.cost

    asked = searched("greedy", Space(4, Limit("cost", 9)), score)
    assert [max(scores) for _, scores in asked] == pytest.approx([2 - 0.05, 3 - 0.06, 3 - 0.07])
    assert {str(plan) for plan in asked[0][0].plans} >= {"0 0-3", "0-3 0-3", "0-2 1-3", "0-3 3"}
    assert len(asked[0][0].plans) == 10  # every block (i, j)


PLANS = st.builds(
    lambda seed, limit: without_random_layers(Random(seed), LAYERS, Limit("cost", limit)),
    st.integers(0, 99),
    st.integers(1, 14),
)


@given(PLANS, st.integers(0, 10_000), st.sampled_from(["cost", "depth", "latency"]), st.integers(1, 14))
def test_changes_keep_within_model_and_limit(plan: Plan, seed: int, kind, most: int) -> None:
    limit, random = Limit(kind, most), Random(seed)
    if kind == "latency":
        limit = Limit(kind, CLOCK.overhead + most * CLOCK.layer, CLOCK)
        assert limit.layers == most
    for _ in range(6):
        changed = mutated(plan, random, LAYERS, limit)
        assert limit.fits(changed)
        assert changed.validate(LAYERS)
        assert Plan.parse(str(changed)) == changed
        child = crossed(changed, plan, random, limit)
        assert limit.fits(child)
        assert child.validate(LAYERS)
        assert Plan.parse(str(child)) == child
        plan = changed
    assert mutated(plan, Random(seed), LAYERS, limit) == mutated(plan, Random(seed), LAYERS, limit)


@given(PLANS, st.integers(0, 10_000))
def test_every_change_is_what_its_name_says(plan: Plan, seed: int) -> None:
    steps = list(plan.root.items)
    after = {change.__name__: Plan.of(*change(steps, Random(seed), LAYERS) or [0]) for change in MUTATIONS}
    assert after["leave_out"].cost < plan.cost or plan.cost == 1
    assert plan.cost < after["repeat"].cost <= 2 * plan.cost
    assert sorted(after["swap"].layers) == sorted(plan.layers)
    assert after["swap"].cost == plan.cost
    grouped = after["side_by_side"]
    assert grouped.cost == plan.cost
    assert grouped.depth < plan.depth or len(steps) == 1
    assert after["loop"].cost > plan.cost
    assert after["loop"].layers == plan.layers
    assert set(after["put_back"].layers) >= set(plan.layers)
    assert len(after["put_back"].layers) == min(LAYERS, len(plan.layers) + 1)
    whole = sum(isinstance(step, Layer) and step.part == "whole" for step in steps)
    assert after["halve"].cost == plan.cost - (0.5 if whole else 0)
    assert after["halve"].layers == plan.layers


@given(PLANS, st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_beginning_stays(plan: Plan, seed: int, share: float) -> None:
    steps, random = list(plan.root.items), Random(seed)
    kept = int(share * len(steps))
    for change in MUTATIONS:
        assert change(steps, random, LAYERS, kept)[:kept] == steps[:kept]
    limit = Limit("cost", max(plan.cost, kept + 1))
    for child in (mutated(plan, random, LAYERS, limit, share), crossed(plan, plan, random, limit, share)):
        assert units(child)[:kept] == units(plan)[:kept]


def test_an_evolutions_generation_shares_its_beginnings() -> None:
    space = Space(30, Limit("cost", 21), (without_middle(30, 9),), seed=1)
    generations = [wanted.plans for wanted, _ in searched("evolution", space, lambda plan: Random(str(plan)).random())]
    one_by_one = sum(plan.applications for plans in generations[1:] for plan in plans)
    assert one_by_one > 1.7 * sum(prefix_tree(plans).cost for plans in generations[1:])


def test_plans_that_compute_alike_are_told() -> None:
    assert alike(Plan.parse("0 {2 1} 5*2")) == alike(Plan.parse("0 {1 2} 5 5"))
    assert alike(Plan.parse("0 {1 2}")) != alike(Plan.parse("0 sum{1 2}")) != alike(Plan.parse("0 1 2"))


def test_a_single_loop_is_made_to_fit() -> None:
    assert fitted(Plan.parse("(3 4 5)*4"), Random(0), Limit("cost", 2)) == Plan.parse("3 4")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("cost=0.75", ("cost", 24)),
        ("depth=24", ("depth", 24)),
        ("cost=1", ("cost", 32)),
        ("cost=1.2", ("cost", 38)),
        ("cost=24.0", ("cost", 24)),
        ("depth=4.0", ("depth", 4)),
        ("cost=2.0", ("cost", 64)),
        ("cost=2", ("cost", 2)),
    ],
)
def test_budgets(text: str, limit: tuple[str, int]) -> None:
    assert Budget.parse(text).limit(32) == Limit(*limit)  # type: ignore[arg-type]
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latency=24", "a time with its unit"),
        ("latency=0ms", "a positive number"),
        ("latency=9m", "a positive number"),
        ("cost=24ms", "a time is a latency's"),
        ("price=2", "is no budget"),
        ("cost", "is no budget"),
        ("cost=-1", "a positive number"),
        ("cost=nan", "a positive number"),
        ("depth=x", "a positive number"),
        ("cost=24.5", "layers are whole"),
    ],
)
def test_no_budgets(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("latency=0.5", 0.5 * 42), ("latency=1.5", 1.5 * 42), ("latency=9S", 9), ("latency=9e3 ms", 9)],
)
def test_latency_budgets(text: str, seconds: float) -> None:
    """By a clock whose layers take 4 s, and a call 2 s more."""
    clock = Clock(2, 2.5, 1, 0.5)
    limit = Budget.parse(text).limit(10, clock)
    assert limit == Limit("latency", seconds, clock)
    assert limit.layers == (seconds - 2) // 4
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)
    with pytest.raises(UserError, match=r"leaves no layer: one alone takes 6e\+03 ms, all of them 4.2e\+04 ms"):
        Budget.parse("latency=5999ms").limit(10, clock)


def test_a_budget_without_a_layer() -> None:
    with pytest.raises(UserError, match="leaves no layer of 4"):
        Budget.parse("cost=0.1").limit(4)

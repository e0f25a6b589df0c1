"""Plans proposed from numbers made by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.proposals import (
    MEASURED,
    drop_least,
    drop_least_attentions,
    drop_least_mlps,
    drop_settled,
    drop_span,
    parallel_alike,
    stand_ins,
)
from jaxpaint.plans.strategies import STRATEGIES, build, entry, family, proposed

numbers = st.lists(st.integers(0, 5).map(float), min_size=2, max_size=12)


@pytest.mark.parametrize(("count", "left"), [(1, "0-2 4"), (2, "0 2 4"), (3, "0 2"), (4, "0")])
def test_the_least_go_first_and_of_equals_the_first(count: int, left: str) -> None:
    assert str(drop_least([0.9, 0.2, 0.5, 0.1, 0.3], count)) == left
    assert str(drop_least([1.0, 1.0, 1.0], 1)) == "1 2"


@given(numbers, st.data())
def test_no_left_out_layer_has_more_than_one_that_stays(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values) - 1))
    kept = drop_least(values, count).sequence()
    gone = set(range(len(values))) - set(kept)
    assert list(kept) == sorted(kept)
    assert len(gone) == count
    assert max(values[layer] for layer in gone) <= min(values[layer] for layer in kept)


def test_a_span_is_the_one_over_which_a_state_turns_least() -> None:
    # Of single layers the last turns least, of two in a row the middle ones do, of three the first.
    distances = [[0.5, 0.6, 0.2, 0.9], [0.4, 0.1, 0.8], [0.3, 0.7], [0.2]]
    assert [str(drop_span(distances, count)) for count in (1, 2, 3)] == ["0-2", "0 3", "3"]


def test_settled_answers_come_before_all_else() -> None:
    # The last layer's input agrees at 0.9: half of that is there from state 2 on. Layer 0 changes nothing, but early.
    agreement = [0.1, 0.1, 0.5, 0.8, 0.75, 0.9, 1.0]
    found = [str(drop_settled(agreement, count)) for count in range(1, 6)]
    assert found == ["0-2 4 5", "0-2 5", "0 1 5", "0 5", "5"]


def _similarity(points: list[float]) -> list[list[float]]:
    return [[1 - abs(one - other) for other in points] for one in points]


def test_layers_alike_are_put_side_by_side() -> None:
    # Outputs of layers 1, 2 and 3 are near each other, and so, less, are those of 4 and 5.
    similarity = _similarity([0.0, 0.1, 0.5, 0.51, 0.53, 0.7, 0.75])
    found = [str(parallel_alike(similarity, count)) for count in range(1, 6)]
    assert found == ["0 {1 2} 3-5", "0 {1-3} 4 5", "0 {1-3} {4 5}", "0 {1-5}", "{0-5}"]


def test_linkage_is_of_the_least_alike() -> None:
    """The third layer is nearer to its neighbours than the last two to each other, but far from the first."""
    assert str(parallel_alike(_similarity([9.0, 0.0, 0.1, 0.2, 0.45, 0.73]), 3)) == "{0-2} {3 4}"


def test_of_sublayers_one_half_goes() -> None:
    numbers = [0.9, 0.1, 0.2, 0.8, 0.5, 0.3, 0.1, 0.7]  # of attention and feed-forward in turn
    assert str(drop_least_attentions(numbers, 2)) == "0 1m 2 3m"
    assert str(drop_least_mlps(numbers, 3)) == "0a 1 2a 3a"


def test_affected_are_all_that_run_side_by_side() -> None:
    similarity = _similarity([0.0, 0.1, 0.5, 0.51, 0.53, 0.7, 0.75])
    found = [proposed("parallel-by-similarity", 6, similarity, count).affected for count in (1, 2, 3, 5)]
    assert found == [2, 3, 5, 6]


@pytest.mark.parametrize(("strategy", "layers"), list(itertools.product(MEASURED, (2, 5))))
def test_every_count_of_every_strategy(strategy: str, layers: int) -> None:
    measured = stand_ins(layers)[MEASURED[strategy].measurement or ""]
    for count in range(1, layers):
        variant = proposed(strategy, layers, measured, count)
        dropped = strategy.startswith("drop")
        gone = count / 2 if variant.plan.has_sublayers else count
        assert (variant.plan.cost, variant.plan.depth) == (layers - gone * dropped, layers - gone)
        assert variant.label == f"{strategy} count={count}: {variant.plan}"
        if dropped:
            assert variant.affected == count
    for count in (0, -1, layers, layers + 7):
        with pytest.raises(UserError, match=rf"count {count} is out of range: .* model of {layers} layers"):
            proposed(strategy, layers, measured, count)


def test_measured_strategies_are_not_built_of_a_number_of_layers() -> None:
    for make in (lambda: build("drop-by-influence", 8), lambda: family("drop-by-influence", 8)):
        with pytest.raises(UserError, match="takes measurements of a model: `jaxpaint study"):
            make()
    with pytest.raises(UserError, match="strategy skip takes no measurements; those that do are drop-by-influence, "):
        proposed("skip", 8, [], 2)
    with pytest.raises(UserError, match="did you mean drop-by-influence"):
        proposed("drop-by-influense", 8, [], 2)


def test_reports_know_them() -> None:
    looks = [strategy.look for strategy in (*STRATEGIES.values(), *MEASURED.values())]
    assert len({look[1:] for look in looks[-len(MEASURED) :]}) == len(MEASURED)
    assert entry("drop-settled").words == "drop settled"

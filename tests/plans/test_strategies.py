"""The strategies, against a direct transcription of the study's definitions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Parallel, Plan, Repeat
from jaxpaint.plans.strategies import (
    STRATEGIES,
    Variant,
    block_repeat,
    build,
    family,
    full,
    looped_parallel,
    middle_repeat,
    parallel,
    parallel_pairs,
    random_order,
    reverse,
    skip,
    skip_one,
    starts,
    switch,
)

sizes_and_starts = st.integers(2, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, (size - 2) // 2)))


def _painted(strategy: str, size: int, start: int, seed: int = 0, times: int = 2) -> list[int]:
    """A series strategy layer by layer, written down from the paper with its own variable names."""
    T, s = size, start
    e = T - s
    m = list(range(s + 1, e))
    if strategy == "skip":
        painted = []
    elif strategy == "middle-repeat":
        painted = [T // 2] * (T - 2 * s - 1)
    elif strategy == "reverse":
        painted = list(range(e - 1, s, -1))
    elif strategy == "random":
        state = random.getstate()
        random.seed(seed)
        random.shuffle(m)
        random.setstate(state)
        painted = m
    else:
        painted = m * times
    return [*range(0, s + 1), *painted, *range(e, T)]


class TestSeriesStrategies:
    @given(sizes_and_starts)
    def test_skip(self, size_and_start: tuple[int, int]) -> None:
        assert list(skip(*size_and_start).sequence()) == _painted("skip", *size_and_start)

    @given(sizes_and_starts)
    def test_middle_repeat(self, size_and_start: tuple[int, int]) -> None:
        plan = middle_repeat(*size_and_start)
        assert list(plan.sequence()) == _painted("middle-repeat", *size_and_start)
        assert plan.cost == size_and_start[0]

    @given(sizes_and_starts)
    def test_reverse(self, size_and_start: tuple[int, int]) -> None:
        assert list(reverse(*size_and_start).sequence()) == _painted("reverse", *size_and_start)

    @given(sizes_and_starts, st.integers(0, 1000))
    def test_random_order(self, size_and_start: tuple[int, int], seed: int) -> None:
        plan = random_order(*size_and_start, seed)
        assert list(plan.sequence()) == _painted("random", *size_and_start, seed=seed)

    def test_random_order_leaves_the_global_generator_alone(self) -> None:
        state = random.getstate()
        random_order(32, 3, 5)
        assert random.getstate() == state

    @given(sizes_and_starts, st.integers(1, 4))
    def test_block_repeat(self, size_and_start: tuple[int, int], times: int) -> None:
        plan = block_repeat(*size_and_start, times)
        assert list(plan.sequence()) == _painted("block-repeat", *size_and_start, times=times)

    @given(st.integers(2, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
    def test_skip_one(self, size_and_layer: tuple[int, int]) -> None:
        size, layer = size_and_layer
        expected = list(range(size))
        del expected[layer]
        assert list(skip_one(size, layer).sequence()) == expected

    @given(st.lists(st.integers(0, 40), min_size=3, max_size=3).map(sorted))
    def test_repeat_block(self, numbers: list[int]) -> None:
        first, last, size = numbers[0], numbers[1], numbers[2] + 1
        layers = list(range(size))
        variant = build("repeat-block", size, first=first, last=last)
        assert list(variant.plan.sequence()) == layers[: last + 1] + layers[first : last + 1] + layers[last + 1 :]
        assert (variant.label, variant.affected) == (f"repeat-block first={first} last={last}", last - first + 1)

    @given(st.integers(2, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 2))))
    def test_switch(self, size_and_layer: tuple[int, int]) -> None:
        size, layer = size_and_layer
        expected = list(range(size))
        expected[layer], expected[layer + 1] = expected[layer + 1], expected[layer]
        assert list(switch(size, layer).sequence()) == expected

    @given(st.integers(1, 80))
    def test_full(self, size: int) -> None:
        assert list(full(size).sequence()) == list(range(size))


class TestParallelStrategies:
    @pytest.mark.parametrize(
        ("plan", "text"),
        [
            (parallel(32, 8), "0-8 {9-23} 24-31"),
            (looped_parallel(32, 8), "0-8 {9-23}*3 24-31"),
            (looped_parallel(32, 8, 28), "0-8 {9-23}*28 24-31"),
            (parallel(32, 15), "0-15 {16} 17-31"),
            (parallel(24, 0), "0 {1-23}"),
            (middle_repeat(32, 8), "0-8 16*15 24-31"),
            (block_repeat(30, 12, 3), "0-12 (13-17)*3 18-29"),
            (parallel_pairs(12, 3), "0-3 sum{4 5} sum{6 7} 8-11"),
            (parallel_pairs(13, 3), "0-3 sum{4 5} sum{6 7} sum{8 9} 10-12"),
        ],
    )
    def test_texts(self, plan: Plan, text: str) -> None:
        assert str(plan) == text

    @given(sizes_and_starts, st.integers(2, 28))
    def test_parallel_and_its_loop(self, size_and_start: tuple[int, int], iterations: int) -> None:
        size, start = size_and_start
        affected = size - 2 * start - 1
        plan = parallel(size, start)
        group = plan.root.items[start + 1]
        assert isinstance(group, Parallel)
        assert group.combine == "mean"
        assert (plan.cost, plan.depth, plan.nesting) == (size, size - affected + 1, 1)
        assert skip(size, start).sequence() == tuple(
            item.index
            for item in plan.root.items
            if not isinstance(item, (Parallel, Repeat)) and hasattr(item, "index")
        )
        assert Plan.of(*group.branches).sequence() == tuple(range(start + 1, size - start))
        looped = looped_parallel(size, start, iterations)
        assert looped.root.items[start + 1] == Repeat(group, iterations)
        assert looped.cost == size + (iterations - 1) * affected

    @given(sizes_and_starts)
    def test_parallel_pairs(self, size_and_start: tuple[int, int]) -> None:
        size, start = size_and_start
        plan = parallel_pairs(size, start)
        flat = [n for item in plan.root.items for n in (item.branches if isinstance(item, Parallel) else (item,))]
        assert Plan.of(*flat) == full(size)
        groups = [item for item in plan.root.items if isinstance(item, Parallel)]
        assert len(groups) == (size - 2 * start - 1) // 2
        assert all(len(group.branches) == 2 and group.combine == "sum" for group in groups)


class TestBuild:
    def test_variant_says_how_it_was_made(self) -> None:
        variant = build("looped-parallel", 32, start=8)
        assert variant == Variant("looped-parallel", looped_parallel(32, 8, 3), 32, start=8, iterations=3)
        assert variant.affected == 15
        assert variant.label == "looped-parallel start=8 iterations=3"
        assert build("random", 32, start=8, seed=4).label == "random start=8 seed=4"
        assert build("block-repeat", 32, start=8).times == 2
        assert [build("full", 8).affected, build("skip-one", 8, layer=0).affected] == [0, 1]
        assert build("switch", 8, layer=6).affected == 2

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("skip", {}, r"strategy skip needs a start layer: 0-14 for a model of 30 layers"),
            ("skip", {"start": 15}, r"start 15 is out of range: 0-14 for a model of 30 layers"),
            ("skip", {"start": -1}, r"start -1 is out of range"),
            (
                "skip",
                {"start": 3, "seed": 0},
                r"strategy skip does not take seed \(given 0\): it takes start",
            ),
            ("full", {"start": 0}, r"does not take start \(given 0\): it takes no options"),
            ("random", {"start": 3}, r"strategy random needs a seed$"),
            ("switch", {}, r"strategy switch needs a layer: 0-28 for a model of 30 layers"),
            ("switch", {"layer": 29}, r"layer 29 is out of range: 0-28"),
            ("repeat-block", {"first": 3}, r"strategy repeat-block needs a last layer: 0-29 for a model of 30 layers"),
            ("repeat-block", {"first": 3, "last": 30}, r"last 30 is out of range: 3-29"),
            ("repeat-block", {"first": 3, "last": 2}, r"last 2 is out of range: 3-29"),
            ("skip-one", {"layer": 30}, r"layer 30 is out of range: 0-29"),
            ("looped-parallel", {"start": 3, "iterations": 0}, r"iterations must be at least 1, not 0"),
            ("block-repeat", {"start": 3, "times": -2}, r"times must be at least 1, not -2"),
            ("midle-repeat", {}, r"unknown strategy 'midle-repeat': did you mean middle-repeat"),
            ("zzz", {}, r"unknown strategy 'zzz': the strategies are full, skip, "),
        ],
    )
    def test_mistakes(self, name: str, options: dict[str, int], words: str) -> None:
        with pytest.raises(UserError, match=words):
            build(name, 30, **options)

    @pytest.mark.parametrize("name", ["skip", "switch", "skip-one"])
    def test_a_model_too_small(self, name: str) -> None:
        option = {"start": 0} if name == "skip" else {"layer": 0}
        with pytest.raises(UserError, match="a model of 1 layer is too small"):
            build(name, 1, **option)
        assert family(name, 1) == ()

    @pytest.mark.parametrize(("size", "last"), [(32, 15), (24, 11), (30, 14), (31, 14), (2, 0), (3, 0)])
    def test_starts_run_while_a_middle_is_left(self, size: int, last: int) -> None:
        assert list(starts(size)) == [s for s in range(size) if size - 2 * s - 1 >= 1] == list(range(last + 1))


class TestFamily:
    def test_the_papers_main_strategies_are_304_plans(self) -> None:
        counts = {name: len(family(name, 32)) for name in STRATEGIES}
        assert counts == {
            "full": 1,
            "skip": 16,
            "middle-repeat": 16,
            "reverse": 16,
            "random": 160,
            "parallel": 16,
            "looped-parallel": 16,
            "block-repeat": 32,
            "repeat-block": 32 * 33 // 2,
            "parallel-pairs": 16,
            "layer-parallelism": 16,
            "skip-attention": 16,
            "skip-mlp": 16,
            "skip-one": 32,
            "switch": 31,
        }
        others = {"block-repeat", "repeat-block", "parallel-pairs", "layer-parallelism", "skip-attention", "skip-mlp"}
        assert sum(count for name, count in counts.items() if name not in others) == 304

    def test_chosen_starts_seeds_and_iterations(self) -> None:
        made = family("random", 30, starts=[2, 5], seeds=[7, 8])
        assert [(v.start, v.seed) for v in made] == [(2, 7), (2, 8), (5, 7), (5, 8)]
        assert made[1].plan == random_order(30, 2, 8)
        sweep = family("looped-parallel", 32, starts=(4,), iterations=range(1, 29))
        assert [v.iterations for v in sweep] == list(range(1, 29))
        assert [v.times for v in family("block-repeat", 30, starts=(4,))] == [2, 3]

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_every_variant_fits_its_model_and_reads_back(self, name: str) -> None:
        for variant in family(name, 12, seeds=range(3)):
            assert Plan.parse(str(variant.plan.validate(12))) == variant.plan
            assert variant.strategy == name
            assert variant.num_layers == 12

    def test_a_start_out_of_range(self) -> None:
        with pytest.raises(UserError, match="start 20 is out of range"):
            family("skip", 30, starts=[3, 20])

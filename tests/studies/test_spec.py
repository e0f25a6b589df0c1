"""A study's variants, and its plans in shards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.shards import shard_of
from jaxpaint.plans.strategies import Variant, starts
from jaxpaint.plans.tree import prefix_tree
from jaxpaint.studies.settings import spec_from
from jaxpaint.studies.spec import StudySpec

PAPER_LAYERS = 32  # Llama2-7B


def spec(**values) -> StudySpec:
    return StudySpec("model", Path("study.sqlite"), **values)


@pytest.fixture(scope="module")
def paper() -> StudySpec:
    return spec_from({"preset": "paper", "model": "m", "store": "s"})


class TestVariants:
    def test_the_full_model_is_always_there_and_first(self) -> None:
        assert [variant.label for variant in spec().variants(4)] == ["full"]
        assert [variant.label for variant in spec(strategies=("skip", "full")).variants(4)] == [
            "full",
            "skip start=0",
            "skip start=1",
        ]

    def test_options_reach_the_strategies_that_take_them(self) -> None:
        variants = spec(
            strategies=("random", "looped-parallel", "block-repeat"), starts=(1,), seeds=(4, 7), loops=(2,), times=(5,)
        ).variants(7)
        assert [variant.label for variant in variants] == [
            "full",
            "random start=1 seed=4",
            "random start=1 seed=7",
            "looped-parallel start=1 iterations=2",
            "block-repeat start=1 times=5",
        ]

    def test_no_variant_comes_twice_but_plans_may(self) -> None:
        variants = spec(strategies=("parallel", "looped-parallel", "parallel"), starts=(1,), loops=(1, 3, 1)).variants(
            7
        )
        assert [variant.label for variant in variants] == [
            "full",
            "parallel start=1",
            "looped-parallel start=1 iterations=1",
            "looped-parallel start=1 iterations=3",
        ]
        assert variants[1].plan == variants[2].plan

    def test_plans_of_ones_own(self) -> None:
        full, own = spec(plans=("0 {1 2} 3", "0 {1  2} 3")).variants(4)
        assert own == Variant("custom", Plan.parse("0 {1 2} 3"), 4)
        assert (own.label, own.affected, own.start) == ("0 {1 2} 3", None, None)
        assert full.affected == 0

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"strategies": ("skip",), "starts": (0, 2)}, "start 2 is out of range: 0-1"),
            ({"plans": ("0-3", "0-4")}, "plan '0-4' of this study: the plan uses layer 4, but the model has 4 layers"),
        ],
    )
    def test_what_does_not_fit_the_model(self, values, expected) -> None:
        with pytest.raises(UserError, match=expected):
            spec(**values).variants(4)

    def test_the_papers_set(self, paper) -> None:
        """The counts of the paper's figures for T = 32: 304 main plans, 448 of the map of figure 10."""
        variants = paper.variants(PAPER_LAYERS)
        count = len(starts(PAPER_LAYERS))
        found = {name: [v for v in variants if v.strategy == name] for name in ("full", *paper.strategies)}
        assert {name: len(members) for name, members in found.items()} == {
            "full": 1,
            "skip": count,
            "middle-repeat": count,
            "reverse": count,
            "random": 10 * count,
            "parallel": count,
            "looped-parallel": 28 * count,
            "block-repeat": 2 * count,
            "skip-one": 32,
            "switch": 31,
        }
        assert {v.times for v in found["block-repeat"]} == {2, 3}
        assert {v.iterations for v in found["looped-parallel"]} == set(range(1, 29))
        main = [v for v in variants if v.strategy != "block-repeat" and v.iterations in (None, 3)]
        assert len(main) == 304

    def test_the_papers_other_settings(self, paper) -> None:
        assert paper.tasks == ("lambada_openai", "hellaswag", "arc_challenge", "winogrande", "gsm8k")
        assert (paper.bos, paper.kv, paper.num_fewshot, paper.limit) == ("off", "mean", None, None)
        assert (paper.analyses, paper.analysis_samples) == (("similarity", "variance"), 100)
        assert paper.analysis_task == "lambada_openai"
        # Figures 3 and 15: skip and middle repeat at 16 starts, of which the last repeat is the full model.
        assert len(paper.analysed_plans(paper.variants(32))) == 32


class TestShards:
    @pytest.mark.parametrize("num_layers", [30, PAPER_LAYERS])
    @pytest.mark.parametrize("count", [1, 2, 8, 16])
    @pytest.mark.few(3)
    def test_the_papers_set_in_parts(self, paper, num_layers, count) -> None:
        whole = [variant.plan for variant in paper.variants(num_layers)]
        shards = shard_of(whole, count)
        assert set(shards) == set(range(1, count + 1))
        costs = [
            prefix_tree([plan for plan, shard in zip(whole, shards, strict=True) if shard == index]).cost
            for index in range(1, count + 1)
        ]
        once = prefix_tree(whole).cost
        assert max(costs) <= 1.15 * once / count
        assert min(costs) >= 0.8 * once / count
        assert sum(costs) <= 1.15 * once

    def test_one_spec_knows_its_shard(self, paper) -> None:
        parts = [
            spec_from({"preset": "paper", "model": "m", "store": "s", "shard": f"{index}/3"}).shard_variants(30)
            for index in (1, 2, 3)
        ]
        assert {v.label for part in parts for v in part} == {v.label for v in paper.variants(30)}
        assert sum(map(len, parts)) == len(paper.variants(30))
        assert paper.shard_variants(30) == paper.variants(30)

    def test_each_job_finds_the_same_split(self, paper) -> None:
        plans = [variant.plan for variant in paper.variants(12)]
        assert shard_of(plans, 5) == shard_of([Plan.parse(str(plan)) for plan in plans], 5)

    def test_plans_that_run_alike_lie_together(self) -> None:
        plans = [Plan.parse(text) for text in ("0 1", "2 2", "3", "2*2", "0 1", "(2)*2", "4*9", "4*3 4*6")]
        for count in range(1, 9):
            shards = shard_of(plans, count)
            assert shards[1] == shards[3] == shards[5]
            assert shards[0] == shards[4]
            assert shards[6] == shards[7]
            assert set(shards) <= set(range(1, count + 1))

    def test_no_cut_of_neighbouring_leaves_is_better(self) -> None:
        """Against trying every cut, on small random trees."""
        generator = random.Random(0)
        for _ in range(20):
            plans = [
                Plan.of(generator.choice((0, 1)) for _ in range(generator.randint(1, 6)))
                for _ in range(generator.randint(2, 8))
            ]
            for count in (2, 3):
                shards = shard_of(plans, count)
                worst = max(
                    prefix_tree([p for p, s in zip(plans, shards, strict=True) if s == n]).cost for n in set(shards)
                )
                assert worst == best_worst(plans, count)

    def test_more_shards_than_plans_leave_some_empty(self) -> None:
        plans = [Plan.parse("0 1"), Plan.parse("1 0")]
        assert sorted(shard_of(plans, 10)) == [1, 2]
        assert shard_of([], 3) == ()


def best_worst(plans: list[Plan], count: int) -> int:
    """The least that the costliest of `count` parts can cost, where parts are neighbours in the tree's order."""

    def leaves(branch) -> list[tuple[int, ...]]:
        own = [branch.ends] if branch.ends else []
        return own + [leaf for child in branch.branches for leaf in leaves(child)]

    order = leaves(prefix_tree(plans))

    def part(first: int, last: int) -> int:
        return prefix_tree([plans[i] for leaf in order[first:last] for i in leaf]).cost

    def split(first: int, parts: int) -> int:
        if parts == 1:
            return part(first, len(order))
        cuts = range(first + 1, len(order) + 1)
        return min(max(part(first, cut), split(cut, parts - 1) if cut < len(order) else 0) for cut in cuts)

    return split(0, count)

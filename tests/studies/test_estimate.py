"""Counts of a study's work against counting by hand and against what the engine says it ran."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpaint.engine.packing import Request, pack
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import family, starts
from jaxpaint.studies.estimate import (
    PlanWork,
    Rates,
    TokenWork,
    memory_needed,
    plan_work,
    seconds_needed,
    shard_work,
    token_work,
)
from jaxpaint.studies.settings import spec_from

SMOLLM2 = 30  # layers


def plans(*texts: str) -> list[Plan]:
    return [Plan.parse(text) for text in texts]


class TestPlanWork:
    def test_shared_prefixes_count_once(self) -> None:
        # 0 1 | 2 3, | 3, | {2 3} 4; and 0 1 ends twice.
        work = plan_work(plans("0-3", "0 1 3", "0 1 {2 3} 4", "0 1", "0 1"))
        assert (work.plans, work.distinct, work.separate, work.ends) == (4, 2 + 2 + 1 + 3, 4 + 3 + 5 + 2, 4)

    def test_plans_that_run_alike_end_together(self) -> None:
        work = plan_work(plans("0 0", "0*2"))
        assert (work.plans, work.distinct, work.ends) == (2, 2, 1)

    def test_nothing(self) -> None:
        assert plan_work([]) == PlanWork(0, 0, 0, 0, 0)

    def test_skip_on_smollm2_by_hand(self) -> None:
        """Start s keeps 0 ... s and the last s: after the common 0 ... s, the tree has one path of s layers each."""
        work = plan_work([variant.plan for variant in family("skip", SMOLLM2)])
        count = len(starts(SMOLLM2))
        assert work.plans == work.ends == count == 15
        assert work.separate == sum(2 * s + 1 for s in range(count))
        # Start 0's plan is layer 0 and 29: T - s ... T - 1 are s layers.
        assert work.distinct == count + sum(range(count))

    def test_one_more_loop_costs_a_block_and_the_rest(self) -> None:
        variants = family("looped-parallel", SMOLLM2, starts=[5], iterations=range(1, 29))
        middle, rest = SMOLLM2 - 11, 5
        work = plan_work([variant.plan for variant in variants])
        assert work.distinct == 6 + 28 * (middle + rest)
        assert work.separate == sum(11 + n * middle for n in range(1, 29))

    def test_the_papers_set(self) -> None:
        """7.6 times fewer for T = 32 (without block repeat)."""
        spec = spec_from({"preset": "paper", "model": "m", "store": "s"})
        variants = [v for v in spec.variants(32) if v.strategy != "block-repeat"]
        work = plan_work([variant.plan for variant in variants])
        assert work.separate / work.distinct == pytest.approx(7.6, abs=0.2)

    def test_shards_are_the_works_parts(self) -> None:
        everything = [variant.plan for variant in family("random", SMOLLM2)]
        parts = shard_work(everything, 4)
        assert sum(part.plans for part in parts) == len(set(everything))
        assert sum(part.separate for part in parts) == plan_work(everything).separate
        assert sum(part.distinct for part in parts) >= plan_work(everything).distinct


def test_token_work() -> None:
    question = list(range(1, 21))
    requests = [Request.of(question, answer, 64) for answer in ([30, 31], [32, 33, 34], [35])]
    batches = pack(requests, batch_tokens=64, attention_cost=0.001)
    work = token_work(requests, batches)
    # A continuation's last token is predicted, never run.
    assert (work.requests, work.separate) == (3, 21 + 22 + 20)
    assert work.distinct == 20 + 1 + 2 + 0
    assert work.computed == sum(batch.tokens.size for batch in batches) >= work.distinct
    assert work.scored == 1 + 1 + 2  # the question's last token scores three answers' first, within four targets


def test_seconds() -> None:
    plan = PlanWork(plans=5, distinct=100, separate=300, ends=4, held=2)
    tokens = TokenWork(requests=1, separate=90, distinct=40, computed=50, scored=10)
    assert seconds_needed(plan, tokens, Rates(layer=0.001, head=0.01)) == pytest.approx(5.0 + 0.4)


def test_memory() -> None:
    def held(states: int) -> PlanWork:
        return PlanWork(1, 1, 1, 1, states)

    few = memory_needed(held(2), parameter_bytes=1000, state_bytes=10, held_bytes=100, logits_bytes=7)
    assert (few.parameters, few.held_states, few.logits, few.total) == (1000, 20 + 30, 7, 1057)
    assert memory_needed(held(50), parameter_bytes=0, state_bytes=10, held_bytes=100, logits_bytes=0).total == 130


@pytest.mark.parametrize("tiny", ["grouped-query"], indirect=True)
def test_the_engine_runs_what_was_counted(tiny) -> None:
    from jaxpaint.engine.score import pack_for, score_plans

    requests = [Request.of(range(1, 9), [n, n + 1], 64) for n in range(20, 26)]
    chosen = plans("0-4", "0 1 {2 3} 4", "0 1 {2 3}*2 4", "0 4", "0 3 2 1 4")
    work, tokens = plan_work(chosen), token_work(requests, pack_for(tiny.model, requests, 64))
    scores = score_plans(tiny.model, requests, chosen, batch_tokens=64)
    assert scores.distinct == work.distinct * tokens.distinct
    assert scores.separate == work.separate * tokens.separate
    assert scores.executed == work.distinct * tokens.computed
    assert np.isfinite(scores.loglikelihoods).all()

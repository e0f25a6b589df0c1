"""Fronts, paired differences and what is made of them, against naive reruns and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.plans.plan import Plan
from jaxpaint.results.search import Estimate, holm
from jaxpaint.search.confirm import front, mean_difference, spread

TEXTS = ["0", "1", "0 1", "0-2", "{0-2}", "{0 1}", "0-3", "{0 1} 2", "3*4", "{0-3}"]
SCORES = st.dictionaries(st.sampled_from(TEXTS), st.integers(-3, 3).map(float), min_size=1)


@given(SCORES)
def test_the_front_is_what_nothing_beats(scores: dict[str, float]) -> None:
    plans = {Plan.parse(text): score for text, score in scores.items()}
    kept = front(plans)
    values = {plan: (plan.cost, plan.depth, -score) for plan, score in plans.items()}

    def beaten(plan: Plan) -> bool:
        others = (value for value in values.values() if value != values[plan])
        return any(all(a <= b for a, b in zip(other, values[plan], strict=True)) for other in others)

    assert {values[plan] for plan in kept} == {values[plan] for plan in plans if not beaten(plan)}
    assert len({values[plan] for plan in kept}) == len(kept)


def test_a_plan_without_finite_score_is_on_no_front() -> None:
    assert front({Plan.parse("0"): -np.inf, Plan.parse("0 1"): 0.0}) == (Plan.parse("0 1"),)


def test_finalists_are_spread_with_the_winner_among_them() -> None:
    plans = [Plan.of(range(size)) for size in range(1, 12)]
    chosen = spread(plans, plans[4:5], 4)
    assert len(chosen) == 4
    assert plans[4] in chosen
    assert plans[0] in chosen
    assert plans[-1] in chosen
    assert spread(plans, plans[4:5], 1) == (plans[4],)
    assert spread(plans, plans[4:5], 20) == tuple(plans)


def test_mean_differences_are_paired() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 40)), random.normal(size=(2, 40))
    one = mean_difference([ours[0]], [theirs[0]])
    test = scipy.stats.ttest_rel(ours[0], theirs[0])
    assert one.value / one.stderr == pytest.approx(test.statistic)
    assert one.p == pytest.approx(2 * scipy.stats.norm.sf(abs(test.statistic)))
    both = mean_difference([ours[0], ours[1][:10]], [theirs[0], theirs[1][:10]])
    other = mean_difference([ours[1][:10]], [theirs[1][:10]])
    assert both.value == pytest.approx((one.value + other.value) / 2)
    assert both.stderr == pytest.approx(np.hypot(one.stderr, other.stderr) / 2)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_nothing_differs() -> None:
    assert Estimate(0.0, 0.0).p == 1.0
    assert Estimate(-np.inf, np.nan).p == 1.0
    assert Estimate(-2.0, np.nan).p == 1.0  # of a single document
    assert Estimate(-2.0, 0.0).p == 0.0

"""Clocks of plans: whatever the parts take, the probes tell it, and with it the latency of any plan."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.plans.plan import Plan
from jaxpaint.search.budget import Limit
from jaxpaint.search.clock import Clock, probes
from jaxpaint.search.mutations import mutated

parts = st.floats(0.01, 1.0)


@given(
    clock=st.builds(Clock, st.floats(0, 10), parts, parts, parts), layers=st.integers(4, 40), seed=st.integers(0, 999)
)
def test_the_probes_tell_every_part(clock: Clock, layers: int, seed: int) -> None:
    asked = probes(layers)
    assert len({str(plan) for plan in asked}) == len(asked)
    found = Clock.fitted(asked, [clock.seconds(plan.validate(layers)) for plan in asked])
    plan = mutated(Plan.of(range(layers)), Random(seed), layers, Limit("cost", 2 * layers))
    assert found.seconds(plan) == pytest.approx(clock.seconds(plan), rel=1e-4)
    within = found.layers_within(found.overhead + 3.5 * found.layer)
    assert within == 3


def test_parts_of_a_call() -> None:
    clock = Clock(1, 10, 100, 1000)
    assert clock.seconds(Plan.parse("0-2")) == 1 + 3 * 1110
    assert clock.seconds(Plan.parse("{0 1 2}")) == 1 + 3 * 110 + 1000
    assert clock.seconds(Plan.parse("0a 1m*2")) == 1 + 10 + 200 + 1500


def test_layers_that_cannot_be_told_from_the_call() -> None:
    asked = probes(4)
    assert Clock.fitted(asked, [2.0] * len(asked)).seconds(asked[0]) == pytest.approx(2.0)

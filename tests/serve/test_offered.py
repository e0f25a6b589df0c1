"""Names of plans."""

from __future__ import annotations

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan, PlanError
from jaxpaint.serve.offered import by_name, offered


def test_the_full_plan_and_others_by_label_or_text() -> None:
    found = offered("m", 5, ["wide=0 {1-3} 4", "0 1 2 4", "skip = 0 4"])
    assert [each.name for each in found] == ["m", "m@wide", "m@0-2 4", "m@skip"]
    names = by_name(found)
    assert {name: str(each.plan) for name, each in names.items()} == {
        **{"m": "0-4", "m@wide": "0 {1-3} 4", "m@0-2 4": "0-2 4", "m@skip": "0 4"},
        **{"m@0 {1-3} 4": "0 {1-3} 4", "m@0 4": "0 4"},
    }


def test_a_label_counts_more_than_a_text() -> None:
    names = by_name(offered("m", 5, ["3=0 4", "x=3"]))
    assert names["m@3"].plan == Plan.parse("0 4")


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        (["a=0 4", "a=0 3"], "two plans are named m@a"),
        (["0 4", "0 4"], "two plans are named m@0 4"),
        (["a b=0 4"], "the name 'a b'"),
        (["=0 4"], "the name ''"),
    ],
)
def test_names_that_cannot_be(plans, words) -> None:
    with pytest.raises(UserError, match=words):
        offered("m", 5, plans)


@pytest.mark.parametrize("plan", ["a=0 9", "0 9", "a=0 {", "a="])
def test_plans_that_cannot_be(plan) -> None:
    with pytest.raises(PlanError):
        offered("m", 5, [plan])

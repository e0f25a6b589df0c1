"""Plans changed by methods: what runs then, as the text of it would; and plans as pictures."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxpaint as jp
from jaxpaint.plans.drawing import draw
from jaxpaint.plans.nodes import Layer

NESTED = "0-3 {4 (5 6a)*2 sum{7 8}}*3 9m 10@0.5 11-15"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: jp.Plan("0-2") + "{3 4}" + 5 + range(6, 9) + jp.Plan("9"), "0-2 {3 4} 5-9"),
        (lambda: "0-2" + jp.Plan("3"), "0-3"),
        (lambda: 2 * jp.Plan("0 1") + "5", "(0 1)*2 5"),
        (lambda: jp.Plan("0*2") * 3, "0*6"),
        (lambda: jp.Plan(NESTED).without(5, 6, 7, 10), "0-3 {4 8}*3 9m 11-15".replace("8}", "sum{8}}")),
        (lambda: jp.Plan(NESTED).without(9, 0), "1-3 {4 (5 6a)*2 sum{7 8}}*3 10@0.5 11-15"),
        (lambda: jp.Plan(NESTED).replace(6, 12), "0-3 {4 (5 12a)*2 sum{7 8}}*3 9m 10@0.5 11-15"),
        (lambda: jp.Plan(NESTED).replace(4, "1*2 3"), "0-3 {(1*2 3) (5 6a)*2 sum{7 8}}*3 9m 10@0.5 11-15"),
        (lambda: jp.Plan("0-15").repeat(4, 7, times=3), "0-3 (4-7)*3 8-15"),
        (lambda: jp.Plan(NESTED).repeat(3, 11), "0-2 (3 {4 (5 6a)*2 sum{7 8}}*3 9m 10@0.5 11)*2 12-15"),
        (lambda: jp.Plan("0-31").parallel(9, 22), "0-8 {9-22} 23-31"),
        (lambda: jp.Plan("3 9 1 2").parallel(9, 2, combine="sum"), "3 sum{9 1 2}"),
        (lambda: jp.Plan.of(range(3), "{3 4}", 5), "0-2 {3 4} 5"),
        (lambda: jp.Plan(Layer(3)), "3"),
    ],
)
def test_a_changed_plan_is_that_of_its_text(made, text: str) -> None:
    assert made() == jp.Plan.parse(text)
    assert repr(made()) == f"Plan({text!r})"


@given(order=st.lists(st.integers(0, 9), min_size=1, max_size=20), gone=st.sets(st.integers(0, 9)))
def test_without_is_the_order_without(order: list[int], gone: set[int]) -> None:
    rest, plan = [layer for layer in order if layer not in gone], jp.Plan.of(order)
    if rest:
        assert plan.without(*(gone & set(order))).sequence() == tuple(rest)
    assert len(plan) == len(order) == len(plan.steps)


def test_steps_are_counted_as_they_are_written_out() -> None:
    plan = jp.Plan(NESTED)
    assert [step.label for step in plan.steps[3:8]] == [
        "3",
        *(f"{plan.steps[4].plan} {turn}/3" for turn in (1, 2, 3)),
        "9m",
    ]
    assert len(plan) == len(plan.steps) == 14
    assert len(jp.Plan("0*999999")) == 999_999  # at once


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: jp.Plan(["0", 1]), "is no plan's text; write jaxpaint.Plan('0-8 {9-22} 23-31')"),  # type: ignore[arg-type]
        (lambda: jp.Plan("0-"), "column"),
        (lambda: jp.Plan("0-3").without(7), "does not use layer 7"),
        (lambda: jp.Plan("0-3").without(*range(4)), "nothing is left"),
        (lambda: jp.Plan("0 1a").replace(1, "2 3"), "only another layer can take its place"),
        (lambda: jp.Plan("0-3 {4 5}").repeat(2, 4), "layer 4 is no step of the plan's series"),
        (lambda: jp.Plan("0-3 0").parallel(0, 2), "layer 0 is 2 steps"),
        (lambda: jp.Plan("0-3").parallel(2, 1), "layer 1 runs before layer 2"),
        (lambda: jp.Plan("0-3") * 1.5, "times is 1.5"),  # type: ignore[operator]
        (lambda: jp.Plan("0-3") + None, "layer is None"),  # type: ignore[operator]
        (lambda: jp.Plan("0-3") * 0, "repeat count of 0"),
    ],
)
def test_mistakes_are_told(wrong, said: str) -> None:
    with pytest.raises(jp.PlanError, match=re.escape(said)):
        wrong()


@pytest.mark.parametrize(
    "text", ["7", "0-8 {9-22}*3 23-31", NESTED, "0 {(1 2) (3 sum{4 5}*2 6)} 7", " ".join("31" * 40)]
)
def test_the_picture_has_the_words_of_the_drawing(text: str) -> None:
    plan = jp.Plan(text)
    tree = ElementTree.fromstring(plan._repr_svg_())
    words = [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    drawn = re.sub(r"[│─╭╮╰╯├┤┬┴┼\s]", "", draw(plan.root, 80))
    assert re.sub(r"\s", "", "".join(filter(None, words))) == drawn
    layers = sum(1 for _ in tree.iter("{http://www.w3.org/2000/svg}rect"))
    assert 0 < layers < len(words)
    assert plan._repr_svg_() in plan._repr_html_()
    assert f"cost {plan.cost:g}" in plan._repr_html_()

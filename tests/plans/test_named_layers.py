"""Layers of a composed model by name: a text with names is the plan of the one with numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.plans.names import NamedLayersError
from jaxpaint.plans.nodes import LETTERS
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, PlanError, Repeat, Series, Weighted
from jaxpaint.plans.text import weight_text
from tests.plans.test_plan import plans

# Every third layer is A's, backwards; two have no name.
NAMES = {"A": {4: 0, 3: 3, 2: 6, 1: 9}, "b_2": {0: 1, 1: 4, 2: 7, 3: 10}, "sum": {0: 2, 1: 5, 2: 8}}
OF_NUMBER = {number: f"{name}:{layer}" for name, layers in NAMES.items() for layer, number in layers.items()}


def named(node: Node) -> str:
    """A node as text, every layer by its name where it has one."""
    match node:
        case Layer(index, part, beside):
            other = "" if beside is None else f"~{OF_NUMBER.get(beside, beside)}"
            # Without a name it would be one of the same model.
            if other and beside not in OF_NUMBER:
                return f"{index}{LETTERS[part]}{other}"
            return f"{OF_NUMBER.get(index, index)}{LETTERS[part]}{other}"
        case Series(items):
            return f"({' '.join(map(named, items))})"
        case Parallel(branches, combine):
            return f"{'sum' if combine == 'sum' else ''}{{{', '.join(map(named, branches))}}}"
        case Repeat(body, times):
            return f"{named(body)}*{times}"
        case Weighted(body, weight):
            return f"{named(body)}@{weight_text(weight)}"


@given(plans)
def test_named_text_is_the_numbered_plan(plan: Plan) -> None:
    text = " ".join(map(named, plan.root.items))
    assert Plan.parse(text, NAMES) == plan
    if ":" in text:
        with pytest.raises(NamedLayersError):
            Plan.parse(text)


@given(st.sampled_from([*NAMES]), st.data(), st.sampled_from(["", "a", "m"]), st.sampled_from(["", "*2", "@0.5"]))
def test_ranges_are_of_the_models_own_layers(name: str, data: st.DataObject, letter: str, after: str) -> None:
    first, last = (data.draw(st.sampled_from([*NAMES[name]])) for _ in range(2))
    step = 1 if last >= first else -1
    numbers = " ".join(f"{NAMES[name][layer]}{letter}" for layer in range(first, last + step, step))
    expected = Plan.parse(f"({numbers}){after} 11")
    for text in (
        f"{name}:{first}-{last}{letter}",
        f"{name}:{first}–{name}:{last}{letter}",
        f"{name} : {first} - {last}{letter}",
    ):
        assert Plan.parse(f"{text}{after} 11", NAMES) == expected


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("A:1m~2", "9m~6"),
        ("A:1m~b_2:2 12", "9m~7 12"),
        ("11m~A:1", "11m~9"),
        ("lp{A:1 b_2:1}", "lp{9 4}"),
        ("sum{sum:0 A:1}", "sum{2 9}"),
        ("[A:4, A:1]", "0 9"),  # no pair of numbers, which may be a range
        ("{A:1 b_2:1}*2 A:3m@0.5", "{9 4}*2 3m@0.5"),
    ],
)
def test_names_in_every_place(text: str, numbers: str) -> None:
    assert Plan.parse(text, NAMES) == Plan.parse(numbers)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("0 C:1", 3, "there is no model C; there is A, b_2, sum"),
        ("A:1 A:0", 5, "A:0: of A the store has layers 1-4"),
        ("{A:1 A:1-9}", 6, "A:5: of A the store has layers 1-4"),
        ("A:1-b_2:3", 5, "a range has the layers of one model"),
        ("1-A:3", 3, "a range has the layers of one model"),
        ("A:x", 3, "expected a layer's number after A:, but found 'x'"),
        ("A:", 3, "expected a layer's number after A:, but the plan ends here"),
        ("A:(1 2)", 3, "expected a layer's number after A:"),
        ("0:9", 2, "a slice of Python's ends before its second number"),
        ("A:1 {", 6, "expected a layer"),
    ],
)
def test_errors_point_at_the_place(text: str, column: int, words: str) -> None:
    with pytest.raises(PlanError) as raised:
        Plan.parse(text, NAMES)
    assert (raised.value.column, words in str(raised.value)) == (column, True), str(raised.value)
    assert not isinstance(raised.value, NamedLayersError)


def test_where_layers_have_no_names() -> None:
    with pytest.raises(
        NamedLayersError, match=r"column 3: A:1 names a layer of a composed model, and no model is given"
    ):
        Plan.parse("0 A:1 B:2")
    with pytest.raises(PlanError, match=r"A:1 names a layer .* jaxpaint compose --model A=MODEL"):
        Plan.parse("0 A:1", {})
    with pytest.raises(PlanError, match="A:1: of A the store has no layer as it was"):
        Plan.parse("A:1", {"A": {}})
    with pytest.raises(PlanError, match="column 8: expected a layer") as raised:
        Plan.parse("A:1 {B:")  # what is no plan at all is told first
    assert not isinstance(raised.value, NamedLayersError)

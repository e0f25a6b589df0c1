"""Series plans in the notations of mergekit and exllamav2."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.merges import from_mergekit, from_repeats, to_mergekit, to_repeats
from jaxpaint.plans.plan import Plan, PlanError

series = st.lists(st.integers(0, 20), min_size=1, max_size=30).map(Plan.of)
GOLIATH_LIKE = """
# two overlapping halves
slices:
- sources:
  - model: org/one
    layer_range: [0, 16]
- sources:
  - model: {model: {path: org/one}}
    layer_range:
    - 8
    - 24
- sources: [{layer_range: [23, 24], model: org/one}]
merge_method: passthrough
dtype: float16
tokenizer_source: union
"""


@given(series)
def test_mergekit_there_and_back(plan: Plan) -> None:
    text = to_mergekit(plan, "org/model")
    again, model = from_mergekit(text)
    assert (again.sequence(), model) == (plan.sequence(), "org/model")
    # As mergekit reads it: each slice half-open, in order.
    ranges = [source["layer_range"] for part in yaml.safe_load(text)["slices"] for source in part["sources"]]
    assert [layer for first, end in ranges for layer in range(first, end)] == list(plan.sequence())
    assert all(end == first or after[0] != end for (first, end), after in pairwise(ranges))


@given(series)
def test_repeats_there_and_back(plan: Plan) -> None:
    num_layers = plan.sequence()[-1] + 1
    if max(plan.layers) >= num_layers:
        num_layers = max(plan.layers) + 1
        plan = Plan.of(plan, num_layers - 1)
    assert from_repeats(to_repeats(plan, num_layers), num_layers).sequence() == plan.sequence()


def test_what_people_publish() -> None:
    plan, model = from_mergekit(GOLIATH_LIKE)
    assert (str(plan), model) == ("0-15 8-23 23", "org/one")


def test_the_text_that_is_written() -> None:
    assert to_mergekit(Plan.parse("0-2 2*2 4 3"), "org/m") == (
        "merge_method: passthrough\n"
        "slices:\n"
        "- sources:\n"
        "  - model: org/m\n"
        "    layer_range: [0, 3]\n"
        "- sources:\n"
        "  - model: org/m\n"
        "    layer_range: [2, 3]\n"
        "- sources:\n"
        "  - model: org/m\n"
        "    layer_range: [2, 3]\n"
        "- sources:\n"
        "  - model: org/m\n"
        "    layer_range: [4, 5]\n"
        "- sources:\n"
        "  - model: org/m\n"
        "    layer_range: [3, 4]\n"
    )


def test_the_last_pair_goes_on_to_the_end() -> None:
    """As in exllamav2's pull request 275: Venus-120b of a model of 80 layers."""
    text = "[(0,20),(10,30),(20,40),(30,50),(40,60),(50,70),(60,79)]"
    expected = "0-19 10-29 20-39 30-49 40-59 50-69 60-79"
    assert str(from_repeats(text, 80)) == expected
    assert str(from_repeats(text.replace("79", "80"), 80)) == expected
    assert to_repeats(Plan.parse("0-2 1-4"), 5) == "[(0, 3), (1, 5)]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "no merge_method and slices"),
        ("a: [1", "is not YAML"),
        ("a: &a [*a]\nmerge_method: passthrough\n", "mergekit's a may change what layers compute"),
        (GOLIATH_LIKE.replace("passthrough", "slerp"), "merge_method is 'slerp'; only passthrough"),
        (GOLIATH_LIKE + "parameters: {scale: 0.5}\n", "mergekit's parameters may change"),
        (GOLIATH_LIKE.replace("layer_range: [23, 24], ", ""), r"slice 3, layer_range is None; expected two numbers"),
        (GOLIATH_LIKE.replace("[23, 24]", "[23, 23]"), r"is \[23, 23\], which names no layers"),
        (GOLIATH_LIKE.replace("[23, 24]", "[true, 24]"), "expected two numbers"),
        (GOLIATH_LIKE.replace("path: org/one", "path: org/two"), "slices are of org/one and org/two"),
        (
            GOLIATH_LIKE.replace("model: org/one}]", "model: org/one, parameters: {scale: 0}}]"),
            "slice 3 has parameters",
        ),
        (
            GOLIATH_LIKE.replace("model: org/one}]", "model: org/one}, {model: a, layer_range: [0, 1]}]"),
            "not one source",
        ),
        (GOLIATH_LIKE.replace("model: org/one}]", "model: 7}]"), "slice 3 names no model"),
        ("merge_method: passthrough\nmodels: [{model: a}]\n", "mergekit's models may change"),
        ("merge_method: passthrough\nbase_model: a\n", "has no slices"),
    ],
)
def test_what_no_plan_can_say_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_mergekit(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[(0,20),(10,30", "is no list of pairs"),
        ("[]", "is no list of pairs"),
        ("__import__('os')", "is no list of pairs"),
        ("[(0,20),(10,)]", "pair 2 is"),
        ("[(0,20),(10,5)]", "names no layers"),
        ("[(0,20),(10,28)]", "ends before the model's last layer, 31"),
        ("[(0,40),(10,32)]", "layers 32-39"),
    ],
)
def test_lists_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_repeats(text, 32)


def test_plans_that_are_no_series() -> None:
    for text in ("0 {1 2}", "0 1@0.5"):
        with pytest.raises(PlanError, match="no mere order of layers"):
            to_mergekit(Plan.parse(text), "m")
    with pytest.raises(UserError, match="does not end with the model's last layer, 4"):
        to_repeats(Plan.parse("0-3"), 5)

"""Bad plans: refused with the column, what was expected, and within bounded time."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.nodes import MAX_COST, MAX_LAYER, MAX_NESTING, MAX_REPEATS
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, PlanError, Repeat, Series, Weighted

fragments = st.lists(
    st.sampled_from(["0", "7", "12", "9999", *"-*(){}[],–× \n²٣x3", "sum", "range(", "layer_range"]), max_size=30
).map("".join)


def _layers(*indices: int) -> tuple[Node, ...]:
    return tuple(Layer(index) for index in indices)


def _nested(levels: int) -> Node:
    node: Node = Layer(0)
    for _ in range(levels):
        node = Parallel((node,))
    return node


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "column", "words"),
        [
            ("", 1, "empty"),
            ("   ", 4, "empty"),
            (
                "0-8 (9",
                7,
                "expected a layer such as 7, a range such as 0-8, or a group in ( ) or { }, or '*', or '@', or ')'",
            ),
            ("0-8 (9", 7, "to close the '(' of column 5, but the plan ends here"),
            ("0-8 }", 5, "found '}'"),
            ("{1)", 3, "'}' to close the '{' of column 1, but found ')'"),
            ("{}", 2, "expected a layer"),
            ("()", 2, "expected a layer"),
            ("1 x", 3, "or the end of the plan, but found 'x'"),
            ("-3", 1, "found '-'"),
            ("1-", 3, "expected the last layer of the range, but the plan ends here"),
            ("1-2-3", 4, "found '-'"),
            ("*3", 1, "found '*'"),
            ("3*", 3, "expected a repeat count such as 3"),
            ("3*x", 3, "expected a repeat count such as 3"),
            ("3*0", 3, "repeat count is 0"),
            ("3*1000001", 3, "repeat count 1000001 is too large: at most 1000000"),
            ("3@", 3, "expected a weight such as 0.5, but the plan ends here"),
            ("3@x", 3, "expected a weight such as 0.5, but found 'x'"),
            ("3@--1", 3, "expected a weight such as 0.5"),
            ("3@1001", 3, "the weight 1001 is not between -1000 and 1000"),
            ("3@1e3", 4, "or the end of the plan, but found 'e'"),
            ("@0.5", 1, "found '@'"),
            ("3@0.5-9", 6, "found '-'"),
            ("3" + "*1@2" * 33, 132, "groups nest deeper than 32 levels"),
            ("sum(1 2)", 4, "expected '{' after 'sum', but found '('"),
            ("sum", 4, "expected '{' after 'sum', but the plan ends here"),
            ("0 10000", 3, "layer 10000 is too large: at most 9999"),
            ("0-10000", 3, "layer 10000 is too large: at most 9999"),
            ("1 ２", 3, "found '２'"),
            ("0-9*100001", 5, "applies layers more than 1000000 times"),
            ("0 0*999999 7", 12, "applies layers more than 1000000 times"),
            ("(" * 33 + "1" + ")" * 33, 33, "deeper than 32"),
            ("{" * 32 + "1-2*2" + "}" * 32, 36, "deeper than 32"),
            # What is pasted and may mean two things, or counts otherwise.
            ("[0, 16]", 1, "two layers or a range that ends before the second: write 0 16 or 0-15"),
            ("[9, 10]", 1, "write 9 10 or 9"),
            ("(0, 20), (15, 30)", 1, "write 0 20 or 0-19"),
            ("[[0, 16], [8, 24]]", 2, "a list holds layers and ranges alone"),
            ("[(0, 1, 2), 3]", 2, "a list holds layers and ranges alone"),
            ("0, 1,", 6, "expected a layer"),
            ("0,, 1", 3, "found ','"),
            (", 1", 1, "found ','"),
            ("(1 2]", 5, "')' to close the '(' of column 1, but found ']'"),
            ("0:9", 2, "found ':'; a slice of Python's ends before its second number, so that 0:9 is 0-8 here"),
            ("0–8–9", 4, "found '-'"),
            ("3×0", 3, "repeat count is 0"),
            ("range(5, 5)", 1, "range(5, 5) does not name layers from 0 to 9999"),
            ("0 range(2, -2, -1)", 3, "range(2, -2, -1) does not name layers"),
            ("range(10000, 9998, -1)", 1, "does not name layers"),
            ("range(0, 9, 0)", 1, "does not name layers"),
            ("range(0, 9, 1, 1)", 1, "does not name layers"),
            ("range 9", 7, "expected '(' after 'range'"),
            ("range(0 9)", 9, "expected ',' or ')' in range( )"),
            ("range(0, 10001)", 10, "number 10001 is too large"),
            ("0 *range(9)", 4, "expected a repeat count"),
            ("layer_range: [0, 16]", 1, "whose ranges end before their second number; here ranges have both ends, so"),
            ("layer_range: [0, 16]", 1, "so write 0-15"),
            ("{'layer_range': [5, 6]}", 3, "so write 5"),
            ("slices:\n- sources:\n  - layer_range:\n    - 0\n    - 16\n  - layer_range: [8,24]", 1, "write 0-15 8-23"),
            ("slices: [model: a, layer_range: [0, 4]], [model: b, layer_range: [4, 8]]", 1, "here are several"),
            ("slices", 1, "write layer_range: [0, 16] as 0-15"),
            ("layer_range: [16, 0]", 1, "write layer_range: [0, 16] as 0-15"),
        ],
    )
    def test_column_and_words(self, text: str, column: int, words: str) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.parse(text)
        assert (caught.value.text, caught.value.column) == (text, column)
        assert words in str(caught.value)
        assert f"column {column}:" in str(caught.value)
        assert isinstance(caught.value, UserError)
        assert isinstance(caught.value, ValueError)

    def test_the_caret_stands_below_the_column(self) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.parse("0-8 9? 23-31")
        _, shown, caret = str(caught.value).split("\n")
        assert shown.strip() == "0-8 9? 23-31"
        assert shown[caret.index("^")] == "?"

    def test_the_caret_in_a_long_text_and_behind_wide_characters(self) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.parse("1 " * 500 + "?" + " 1" * 500)
        _, shown, caret = str(caught.value).split("\n")
        assert shown[caret.index("^")] == "?"
        assert len(shown) <= 80
        assert str(PlanError("no", "日本 x", 4)).split("\n")[2] == "  " + " " * 5 + "^"

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.parse("1\x1b[31m\n\ud800")
        assert str(caught.value).count("\n") == 2
        assert "\x1b" not in str(caught.value)
        str(caught.value).encode()

    def test_pickles(self) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.parse("1 x")
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.text, copy.column) == (str(caught.value), "1 x", 3)

    @given(st.one_of(st.text(max_size=40), fragments))
    @example("9" * 5000)
    @example("0*" + "9" * 5000)
    @example("(" * 100_000)
    @example("{" * 100_000)
    @example("sum{" * 100_000)
    @example("0-9999*1000000")
    @example("0-9999" * 300)
    @example("0-9999 " * 300)
    @example("{" * 32 + "0*1000000" + "}*9" * 32)
    @example("1" + "*1" * 10_000)
    @example("1" + "*9" * 10_000)
    def test_random_text_raises_only_plan_errors_and_soon(self, text: str) -> None:
        began = time.perf_counter()
        column: int | None = 1
        try:
            plan = Plan.parse(text)
        except PlanError as error:
            column = error.column
        else:
            assert Plan.parse(str(plan)) == plan
        assert column in range(1, len(text) + 2)
        assert time.perf_counter() - began < 5

    @pytest.mark.parametrize("open_close", ["()", "{}"])
    def test_the_deepest_text_is_read(self, open_close: str) -> None:
        opened, closed = open_close[0] * MAX_NESTING, f"{open_close[1]}*2" * 10 + f"{open_close[1]}*1" * 22
        plan = Plan.parse(f"{opened}1*2 2{closed}")
        assert plan.cost == 3 * 2**10
        assert Plan.parse(str(plan)) == plan

    def test_the_costliest_plan(self) -> None:
        assert Plan.parse(f"5*{MAX_REPEATS}").cost == MAX_COST

    @pytest.mark.parametrize(
        "build",
        [
            lambda: Layer(-1),
            lambda: Layer(MAX_LAYER + 1),
            lambda: Series(()),
            lambda: Parallel(()),
            lambda: Parallel(_layers(1), "median"),  # type: ignore[arg-type]
            lambda: Repeat(Layer(1), 0),
            lambda: Repeat(Layer(1), MAX_REPEATS + 1),
            lambda: Weighted(Layer(1), float("nan")),
            lambda: Weighted(Layer(1), 1001.0),
            lambda: Plan.of(Weighted(Weighted(Layer(1), 100.0), 100.0)),
            lambda: Plan.of(),
            lambda: Plan.of(Repeat(Repeat(Layer(1), 10_000), 10_000)),
            lambda: Plan.of(Repeat(Series(_layers(1, 2)), MAX_REPEATS)),
            lambda: Plan.of(_nested(MAX_NESTING + 1)),
            lambda: Plan.of(_nested(100_000)),
        ],
    )
    def test_trees_out_of_range_are_refused(self, build: object) -> None:
        with pytest.raises(PlanError):
            build()  # type: ignore[operator]

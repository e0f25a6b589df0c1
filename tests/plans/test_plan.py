"""Plans: their text, their errors, and the laws of cost, depth and normal form."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.plans.nodes import MAX_LAYER, Combine, map_layers, units, written_layers
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, PlanError, Repeat, Series, Weighted

pytestmark = pytest.mark.smoke

indices = st.integers(0, 12)
halves = st.builds(Layer, indices, st.sampled_from(["attention", "mlp"]))
layer_nodes = st.builds(Layer, indices) | halves | st.builds(Layer, indices, st.just("mlp"), indices)
weights = st.floats(-10, 10)


def _extend(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(children, min_size=1, max_size=4).map(tuple)
    ascending = st.tuples(st.integers(0, 9), st.integers(1, 5), st.sampled_from(["whole", "attention", "mlp"])).map(
        lambda drawn: Series(tuple(Layer(drawn[0] + i, drawn[2]) for i in range(drawn[1])))
    )
    return st.one_of(
        st.builds(Series, some),
        st.builds(Parallel, some, st.sampled_from(["mean", "sum"])),
        st.builds(Repeat, children, st.integers(1, 3)),
        st.builds(Weighted, children, st.sampled_from([0.5, 1.0, 2.0, -0.25, 0.1, 1 / 3]) | weights),
        ascending,
    )


nodes = st.recursive(layer_nodes, _extend, max_leaves=12)
plans = nodes.map(Plan.of)


def _layers(*indices: int) -> tuple[Node, ...]:
    return tuple(Layer(index) for index in indices)


def _pair(one: int, other: int) -> tuple[Node, ...]:
    attentions = Parallel((Layer(one, "attention"), Layer(other, "attention")), "sum")
    return attentions, Parallel((Layer(one, "mlp", other), Layer(other, "mlp", one)), "sum")


def _chains(node: Node) -> list[list[Layer]]:
    """Every path of layers from input to output, found by brute force."""
    match node:
        case Layer():
            return [[node]]
        case Series(items):
            paths: list[list[Layer]] = [[]]
            for item in items:
                paths = [path + more for path in paths for more in _chains(item)]
            return paths
        case Parallel(branches):
            return [path for branch in branches for path in _chains(branch)]
        case Repeat(body, times):
            return _chains(Series((body,) * times))
        case Weighted(body):
            return _chains(body)


def _applications(node: Node) -> list[Layer]:
    """Every layer application, one by one."""
    match node:
        case Layer():
            return [node]
        case Series(children) | Parallel(children):
            return [layer for child in children for layer in _applications(child)]
        case Repeat(body, times):
            return _applications(body) * times
        case Weighted(body):
            return _applications(body)


def _in_layers(applied: list[Layer]) -> float:
    return sum(1 if layer.part == "whole" else 0.5 for layer in applied)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "items"),
        [
            ("7", _layers(7)),
            ("0-3", _layers(0, 1, 2, 3)),
            ("5-5", _layers(5)),
            ("4-2", _layers(4, 3, 2)),
            ("0-2 7 4-3", _layers(0, 1, 2, 7, 4, 3)),
            ("{9-11}", (Parallel(_layers(9, 10, 11)),)),
            ("{11-9}", (Parallel(_layers(11, 10, 9)),)),
            ("{(9 10) (11 12)}", (Parallel((Series(_layers(9, 10)), Series(_layers(11, 12)))),)),
            ("sum{9 10}", (Parallel(_layers(9, 10), "sum"),)),
            ("16*14", (Repeat(Layer(16), 14),)),
            ("0-1*2", (Repeat(Series(_layers(0, 1)), 2),)),
            ("0 1*2", (Layer(0), Repeat(Layer(1), 2))),
            ("(0-1)*2 3", (Repeat(Series(_layers(0, 1)), 2), Layer(3))),
            ("{9-10}*3", (Repeat(Parallel(_layers(9, 10)), 3),)),
            ("{1-2*2 5}", (Parallel((Repeat(Series(_layers(1, 2)), 2), Layer(5))),)),
            ("{1-2*1}", (Parallel((Series(_layers(1, 2)),)),)),
            ("{4}", (Parallel(_layers(4)),)),
            ("4*2*3", (Repeat(Layer(4), 6),)),
            ("((4)*2)*3", (Repeat(Layer(4), 6),)),
            ("4*1", _layers(4)),
            ("4a", (Layer(4, "attention"),)),
            ("4m 5A*2", (Layer(4, "mlp"), Repeat(Layer(5, "attention"), 2))),
            ("4m~5", (Layer(4, "mlp", 5),)),
            ("4m ~ 5 6", (Layer(4, "mlp", 5), Layer(6))),
            ("lp{4 5}", _pair(4, 5)),
            ("{lp{4-5}}*2", (Repeat(Parallel(_pair(4, 5)), 2),)),
            ("4-6a", tuple(Layer(index, "attention") for index in (4, 5, 6))),
            ("6m-4m@0.5", (Weighted(Series(tuple(Layer(index, "mlp") for index in (6, 5, 4))), 0.5),)),
            ("sum{4a 5a}sum{4m,5m}", tuple(Parallel((Layer(4, p), Layer(5, p)), "sum") for p in ("attention", "mlp"))),
            ("4@0.5", (Weighted(Layer(4), 0.5),)),
            ("4 @ .5 *3", (Repeat(Weighted(Layer(4), 0.5), 3),)),
            ("4*3@2", (Weighted(Repeat(Layer(4), 3), 2.0),)),
            ("4-6@-0.25 7", (Weighted(Series(_layers(4, 5, 6)), -0.25), Layer(7))),
            ("{4@0.5 5-6}@1.50", (Weighted(Parallel((Weighted(Layer(4), 0.5), *_layers(5, 6))), 1.5),)),
            ("sum{4@0.75 5@0.25}", (Parallel((Weighted(Layer(4), 0.75), Weighted(Layer(5), 0.25)), "sum"),)),
            ("(4@0.5)@0.5", (Weighted(Layer(4), 0.25),)),
            ("4@0.5@2", _layers(4)),
            ("4@1.0", _layers(4)),
            ("4@\u22122", (Weighted(Layer(4), -2.0),)),
            ("4@0.0000001", (Weighted(Layer(4), 1e-7),)),
            ("((1 (2)) 3)", _layers(1, 2, 3)),
            ("{{1 2} 3}", (Parallel((Parallel(_layers(1, 2)), Layer(3))),)),
            (" \t{ 9\n10 } 16 * 2 0 - 1 sum {3}", None),
            ("007", _layers(7)),
            (str(MAX_LAYER), _layers(MAX_LAYER)),
        ],
    )
    def test_meaning(self, text: str, items: tuple[Node, ...] | None) -> None:
        if items is None:
            items = (
                Parallel(_layers(9, 10)),
                Repeat(Layer(16), 2),
                *_layers(0, 1),
                Parallel(_layers(3), "sum"),
            )
        assert Plan.parse(text).root == Series(items)

    def test_a_range_in_braces_is_one_branch_per_layer(self) -> None:
        (group,) = Plan.parse("{9-22}").root.items
        assert isinstance(group, Parallel)
        assert group.branches == _layers(*range(9, 23))

    @pytest.mark.parametrize(
        "text",
        [
            "0-8 {9-22}*3 23-31",
            "0-8 16*14 23-31",
            "0-8 (9-22)*2 23-31",
            "0-8 23-31",
            "22-9",
            "9 10",
            "{(9 10) (11 12)}",
            "sum{9 10} sum{11 12} 13",
            "{(9-22)*2}",
            "1-3 2 1",
            "{9 10 (1-4) sum{2 3}*2 11-13}",
        ],
    )
    def test_canonical_text_prints_back_exactly(self, text: str) -> None:
        assert str(Plan.parse(text)) == text

    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("0 1 2 3", "0-3"),
            ("0-1", "0 1"),
            ("3 2 1", "3-1"),
            ("2 1 2 3 4", "2 1-4"),
            ("0-3 4-6", "0-6"),
            ("9-22*2", "(9-22)*2"),
            ("{9-22*2}", "{(9-22)*2}"),
            ("{9-22*1}", "{(9-22)}"),
            ("{1 2 3}", "{1-3}"),
            ("{(1-3) 4}", "{(1-3) 4}"),
            ("{{1}}", "{{1}}"),
            ("(3)*1", "3"),
            ("5 5", "5 5"),
            # What people paste.
            ("0,1,2, 5", "0-2 5"),
            ("0-8, 16*14 ,23 - 31", "0-8 16*14 23-31"),
            ("0–8 {9—22}×3 31−23", "0-8 {9-22}*3 31-23"),
            ("0\u20114 5∗2", "0-4 5*2"),
            ("\ufeff0-8\u00a016\u2009*\u202f3\u200b", "0-8 16*3"),
            ("[0, 1, 2]", "0-2"),
            ("[0, 1, 2,]", "0-2"),
            ("[7]", "7"),
            ("[10, 9]", "10 9"),
            ("[0 16]", "0 16"),
            ("[0-8, 16]*2 3", "(0-8 16)*2 3"),
            ("{9, 10}", "{9 10}"),
            ("sum{9, 10}, (1, 2, 4)", "sum{9 10} 1 2 4"),
            ("{[1, 2, 4], [5, 6, 8]}", "{(1 2 4) (5 6 8)}"),
            ("range(0, 9)", "0-8"),
            ("range(9)*2, range(22, 8, -1) range(0, 9, 4)", "(0-8)*2 22-9 0 4 8"),
            ("[*range(0, 9), 16, *range(2)]", "0-8 16 0 1"),
            ("{range(9, 23)}", "{9-22}"),
        ],
    )
    def test_canonical_form(self, text: str, canonical: str) -> None:
        assert str(Plan.parse(text)) == canonical


class TestLaws:
    @given(plans)
    def test_round_trip(self, plan: Plan) -> None:
        assert Plan.parse(str(plan)) == plan
        assert hash(Plan.parse(str(plan))) == hash(plan)
        assert str(Plan.parse(str(plan))) == str(plan)

    @given(plans, plans)
    def test_plans_are_equal_exactly_when_their_texts_are(self, one: Plan, other: Plan) -> None:
        assert (one == other) == (str(one) == str(other))

    @given(plans)
    def test_normal_form(self, plan: Plan) -> None:
        def check(node: Node, parent: Node | None) -> None:
            match node:
                case Series(items):
                    assert parent is None or (len(items) > 1 and not isinstance(parent, Series))
                case Repeat(body, times):
                    assert times > 1
                    assert not isinstance(body, Repeat)
                case Weighted(body, weight):
                    assert weight != 1
                    assert not isinstance(body, Weighted)
            for child in getattr(node, "items", getattr(node, "branches", ())):
                check(child, node)
            if isinstance(node, (Repeat, Weighted)):
                check(node.body, node)

        check(plan.root, None)
        assert Plan(plan.root) == plan

    @given(nodes)
    def test_normalising_changes_nothing_that_runs(self, node: Node) -> None:
        assert _applications(Plan.of(node).root) == _applications(node)

    @given(nodes)
    def test_cost_layers_and_series(self, node: Node) -> None:
        plan = Plan.of(node)
        applied = _applications(node)
        assert (plan.cost, plan.applications) == (_in_layers(applied), len(applied))
        assert plan.attentions == sum(layer.part != "mlp" for layer in applied)
        named = {each for layer in applied for each in (layer.index, layer.beside)} - {None}
        assert plan.layers == tuple(sorted(named))
        assert plan.shares_norms == any(layer.beside is not None for layer in applied)
        assert plan.has_sublayers == any(layer.part != "whole" for layer in applied)
        assert plan.depth <= plan.cost
        if plan.is_series:
            assert plan.depth == plan.cost
            assert plan.nesting == 0
        assert plan.is_sequence == (plan.is_series and not plan.has_sublayers)
        if plan.is_sequence:
            assert plan.sequence() == tuple(layer.index for layer in applied)
            assert plan.of_whole_layers("a test") is plan
        else:
            with pytest.raises(UserError, match=r"parallel group|weight|sublayer"):
                plan.sequence()
        if plan.has_sublayers:
            with pytest.raises(PlanError, match="runs sublayers, and a test takes whole layers only"):
                plan.of_whole_layers("a test")

    @given(st.recursive(layer_nodes, _extend, max_leaves=5))
    def test_depth_is_the_longest_chain(self, node: Node) -> None:
        chains = _chains(node)
        assert Plan.of(node).depth == max(map(_in_layers, chains))
        assert Plan.of(node).chain_length == max(map(len, chains))

    @given(plans, plans, st.sampled_from(["mean", "sum"]), st.integers(1, 4))
    def test_composition(self, one: Plan, other: Plan, combine: Combine, times: int) -> None:
        both = Plan.of(one, other)
        side_by_side = Plan.of(Parallel((one.root, other.root), combine))
        again = Plan.of(Repeat(one.root, times))
        assert both.cost == side_by_side.cost == one.cost + other.cost
        assert both.depth == one.depth + other.depth
        assert side_by_side.depth == max(one.depth, other.depth)
        assert side_by_side.nesting == 1 + max(one.nesting, other.nesting)
        assert both.nesting == max(one.nesting, other.nesting)
        assert (again.cost, again.depth, again.nesting) == (one.cost * times, one.depth * times, one.nesting)
        assert both == Plan.parse(f"{one} {other}")
        assert side_by_side == Plan.parse(f"{'sum' if combine == 'sum' else ''}{{({one}) ({other})}}")
        assert again == Plan.parse(f"({one})*{times}")

    @given(plans)
    def test_layers_are_mapped_in_the_order_written(self, plan: Plan) -> None:
        seen: list[int] = []
        mapped = Plan.of(map_layers(plan.root, lambda index: seen.append(index) or index + 1))
        assert tuple(seen) == written_layers(plan.root)
        assert written_layers(mapped.root) == tuple(index + 1 for index in seen)
        assert Plan.of(map_layers(mapped.root, lambda index: index - 1)) == plan

    @given(plans)
    def test_units_run_as_the_plan_does(self, plan: Plan) -> None:
        assert _applications(Series(units(plan.root))) == _applications(plan.root)

    @pytest.mark.parametrize(
        ("text", "cost", "depth", "nesting"),
        [
            ("0-31", 32, 32, 0),
            ("0-8 {9-22}*3 23-31", 60, 21, 1),
            ("0-8 16*14 23-31", 32, 32, 0),
            ("{(9 10) 11}", 3, 2, 1),
            ("{{1 2} (3 {4 5}*2)}", 7, 3, 2),
        ],
    )
    def test_cost_and_depth_examples(self, text: str, cost: int, depth: int, nesting: int) -> None:
        plan = Plan.parse(text)
        assert (plan.cost, plan.depth, plan.nesting) == (cost, depth, nesting)


class TestPlan:
    def test_of_takes_indices_ranges_nodes_and_plans(self) -> None:
        assert str(Plan.of(range(9), Repeat(Layer(16), 14), Plan.parse("{1 2}"), 23)) == "0-8 16*14 {1 2} 23"

    def test_validate(self) -> None:
        plan = Plan.parse("0-8 23-31")
        assert plan.validate(32) is plan
        with pytest.raises(PlanError, match=r"layers 30 31, but the model has 30 layers, 0-29"):
            plan.validate(30)
        with pytest.raises(PlanError, match=r"layer 31, but the model has 31 layers, 0-30"):
            plan.validate(31)
        with pytest.raises(PlanError, match=r"layers 1-8 23-31, but the model has 1 layer, 0$"):
            plan.validate(1)

    def test_is_frozen_and_hashable_and_pickles(self) -> None:
        plan = Plan.parse("0 {1 2}*3")
        with pytest.raises(AttributeError):
            plan.root = Series(_layers(1))  # type: ignore[misc]
        assert {plan: 1}[Plan.parse("0{1-2}*3")] == 1
        assert pickle.loads(pickle.dumps(plan)) == plan

    def test_large_repeats_are_not_unrolled(self) -> None:
        began = time.perf_counter()
        plan = Plan.parse("{(0-9)*50000 {1 2}*250000}")
        assert (plan.cost, plan.depth, plan.layers) == (1_000_000, 500_000, tuple(range(10)))
        assert len(units(plan.root)) == 1
        assert time.perf_counter() - began < 0.1

    def test_imports_no_jax_or_numpy(self) -> None:
        code = "import sys, jaxpaint.plans.strategies; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.strip() == "set()"


class TestDraw:
    def test_looped_parallel(self) -> None:
        assert Plan.parse("0-8 {9-11}*3 23-31").draw() == (
            "     input\n"
            "       │\n"
            "      0-8\n"
            "       │\n"
            "╭─ 3 times ──╮\n"
            "│  ╭───┼───╮ │\n"
            "│  9  10  11 │\n"
            "│  ╰───┼───╯ │\n"
            "│    mean    │\n"
            "╰────────────╯\n"
            "       │\n"
            "     23-31\n"
            "       │\n"
            "    output"
        )

    def test_nested_and_sum(self) -> None:
        assert Plan.parse("0 {(1 2) (3 sum{4 5} 6)}").draw() == (
            "   input\n"
            "     │\n"
            "     0\n"
            "     │\n"
            "  ╭──┴───╮\n"
            "1 → 2    3\n"
            "  │      │\n"
            "  │    ╭─┴╮\n"
            "  │    4  5\n"
            "  │    ╰─┬╯\n"
            "  │     sum\n"
            "  │      │\n"
            "  │      6\n"
            "  ╰──┬───╯\n"
            "   mean\n"
            "     │\n"
            "  output"
        )

    def test_many_branches_are_counted(self) -> None:
        drawing = Plan.parse("{0-99}").draw()
        shown = drawing.split("\n")[3].split()
        assert shown[0] == "0"
        assert shown[-1] == "99"
        hidden = int(shown[shown.index("more") - 1])
        assert hidden + len([word for word in shown if word.isdigit()]) - 1 == 100

    @given(plans, st.integers(40, 100))
    @example(Plan.parse("0-8 {9-22}*3 23-31"), 80)
    @example(Plan.parse("{0-9999}"), 40)
    @example(Plan.parse("5 3 1 " * 1000), 40)
    @example(Plan.parse("{5 3} " * 1000), 40)
    @example(Plan.parse("{(1 9 3 7 5 2 4 6 8) 7 ((1 9 3 7 5 2 4 6 8) {1-30})*10000}"), 40)
    def test_fits_the_width_and_stays_short(self, plan: Plan, width: int) -> None:
        lines = plan.draw(width).split("\n")
        assert max(map(len, lines)) <= width
        assert lines[0].strip() == "input"
        assert lines[-1].strip() == "output"

    @given(plans)
    def test_every_layer_is_drawn_where_there_is_room(self, plan: Plan) -> None:
        drawing = re.sub(r"\*\d+|\d+ times|update ×\S+|@-?[0-9.]+", "", plan.draw(2000))
        assume("more" not in drawing)
        drawn: set[int] = set()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", drawing):
            bounds = sorted((int(first), int(last or first)))
            drawn.update(range(bounds[0], bounds[1] + 1))
        assert drawn == set(plan.layers)


def test_the_page_shows_what_plans_do() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()
    for text in ("0-8 {9-22}*3 23-31", "0 {(1 2) (3 sum{4 5}*2 6)} 7", "0 {1-78} 79"):
        assert f"`{text}`:\n\n```\n{Plan.parse(text).draw()}\n```" in page
    with pytest.raises(PlanError) as caught:
        Plan.parse("0-8 {9-22)*3")
    assert str(caught.value) in page

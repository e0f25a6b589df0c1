"""Information flow routes under plans: check 8 of the sheet, and a naive computation of every edge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings

from jaxpaint.analysis import shares as shares_module
from jaxpaint.analysis.route_graph import RouteEdge, RouteNode
from jaxpaint.analysis.routes import Routes, routes
from jaxpaint.analysis.shares import of_attention, of_parts, shares
from jaxpaint.base.errors import UserError
from jaxpaint.engine.interventions import Knockout, Replace, Scale
from jaxpaint.engine.layers import apart
from jaxpaint.plans.events import events
from jaxpaint.plans.nodes import Layer, Node, Parallel, Repeat, Series, Weighted
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.stages import After, Join, stages
from tests.engine.test_compiled import whole_plans
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import WINDOW, Tiny, make_tiny
from tests.helpers.torch_runs import torch_run

TOKENS = np.random.default_rng(4).integers(0, 61, (2, 7))
FAMILIES = ("grouped-query", "attention bias", "neox", "neox, residuals in series", "qwen2", "sliding window")
PLANS = (
    "0-4",
    "4-0",
    "0 {1-3}*2 4",
    "0 (1 2)*2 4",
    "0 sum{1 (2 3)} 4",
    "0 {(1 {2 3}) sum{2 4}} 4",
    "{0 1}",
    "3",
    "0 (1 {2@0.5 3})@0.75*2 4",
)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return make_tiny(request.param)


class TestShares:
    def test_check_8_by_hand(self) -> None:
        found = np.asarray(shares(jnp.array([[0.0, 0.0], [1.0, 1.0]])))
        np.testing.assert_array_equal(found, [0, 1])

    def test_parts_that_work_against_the_whole(self) -> None:
        """y = (3, 0): the first part leaves (0, 0), the second (4, 0), further away: it has next to nothing."""
        found = np.asarray(shares(jnp.array([[3.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])))
        np.testing.assert_allclose(found, [3 / 4, 0, 1 / 4], atol=1e-5)
        assert found[1] > 0

    def test_coordinates_that_do_not_count(self) -> None:
        parts = jnp.array([[1.0, 20_000.0], [3.0, 1.0]])
        assert float(shares(parts)[0]) > 0.99
        np.testing.assert_allclose(np.asarray(shares(parts, jnp.array([1.0, 0.0]))), [0.25, 0.75], rtol=1e-6)

    def test_small_parts_beside_large_coordinates(self) -> None:
        """In float32, where differences of whole norms would be rounded to steps of 0.06."""
        parts = np.zeros((3, 64), np.float32)
        parts[0, 0] = 1e6
        parts[1, 1:], parts[2, 1:] = 0.001, 0.003
        found = np.asarray(shares(jnp.asarray(parts)))
        assert found[2] / found[1] == pytest.approx(3, rel=1e-3)

    def test_a_whole_of_nothing(self) -> None:
        np.testing.assert_array_equal(np.asarray(shares(jnp.zeros((3, 2, 4)))), [[1, 1], [0, 0], [0, 0]])


class TestStages:
    @settings(max_examples=100, deadline=None)
    @given(whole_plans)
    def test_weights_of_events_follow(self, plan: Plan) -> None:
        """Numbers in place of states: what each event adds reaches the end by its weight."""
        own, found = events(plan), stages(plan)
        assert [stage.event for stage in found if isinstance(stage, After)] == list(range(plan.cost))
        joins = [stage.number for stage in found if isinstance(stage, Join)]
        assert joins == list(range(len(joins)))
        values: list[np.ndarray] = []
        for stage in found:
            match stage:
                case After(event, reads):
                    values.append(values[reads] + (np.arange(plan.cost) == event))
                case Join(_, combine, reads, branches, weight):
                    ends = np.array([values[branch] for branch in branches])
                    added = weight * (ends - values[reads]).sum(axis=0)
                    values.append(ends.mean(axis=0) if combine == "mean" else values[reads] + added)
                case _:
                    values.append(np.zeros(plan.cost))
        np.testing.assert_allclose(values[-1], [event.weight for event in own], atol=1e-9)


def naive(tiny: Tiny, tokens: np.ndarray, plan: Plan) -> dict[tuple[Any, ...], dict[tuple[Any, ...], float]]:
    """Each node's incoming shares by (kind, source), of one row, from torch's run: part by part in float64.

    Nodes are (kind, event or join, position).
    """
    run = torch_run(tiny, tokens, plan)
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], float]] = {}
    counts = {"event": 0, "join": 0}
    length = tokens.shape[1]

    def enter(node: tuple[Any, ...], parts: list[tuple[tuple[Any, ...], np.ndarray]]) -> np.ndarray:
        whole = sum(part for _, part in parts)
        each = [
            max(np.abs(whole).sum() - np.abs(whole - part).sum(), 1e-5) if np.abs(part).sum() > 0 else 0.0
            for _, part in parts
        ]
        own = found.setdefault(node, {})
        for (key, _), value in zip(parts, each, strict=True):
            own[key] = own.get(key, 0.0) + value / sum(each)
        return whole

    def layer(index: int, source: str, number: int, x: np.ndarray) -> tuple[str, int, np.ndarray]:
        event = counts["event"]
        counts["event"] += 1
        np.testing.assert_allclose(x, run["reads"][event][0], atol=1e-4)
        written, bias = _heads(tiny, index, x, run["attention"][event][0])
        mlp = run["mlp_out"][event][0].astype(np.float64)
        beside = getattr(tiny.torch.config, "use_parallel_residual", False)
        y = np.zeros_like(x)
        for at in range(length):
            before = (source, number, at)
            parts = [(("residual", *before), x[at]), (("bias", "bias", event, at), bias)]
            for head in range(written.shape[0]):
                parts += [(("attention", source, number, key), written[head, at, key]) for key in range(length)]
            if beside:
                y[at] = enter(("state", event, at), [*parts, (("mlp", "mlp", event, at), mlp[at])])
            else:
                attended = enter(("attention", event, at), parts)
                both = [(("residual", "attention", event, at), attended), (("mlp", "mlp", event, at), mlp[at])]
                y[at] = enter(("state", event, at), both)
        return "state", event, y

    def apply(node: Node, source: str, number: int, x: np.ndarray) -> tuple[str, int, np.ndarray]:
        match node:
            case Layer(index):
                source, number, x = layer(index, source, number, x)
            case Series(items):
                for item in items:
                    source, number, x = apply(item, source, number, x)
            case Repeat(body, times):
                for _ in range(times):
                    source, number, x = apply(body, source, number, x)
            case Parallel(branches, combine):
                ends = [apply(branch, source, number, x) for branch in branches]
                join = counts["join"]
                counts["join"] += 1
                y = np.zeros_like(x)
                for at in range(length):
                    if combine == "mean":
                        parts = [(("branch", kind, own, at), end[at] / len(ends)) for kind, own, end in ends]
                    else:
                        parts = [(("branch", kind, own, at), end[at] - x[at]) for kind, own, end in ends]
                        parts = [(("residual", source, number, at), x[at]), *parts]
                    y[at] = enter(("join", join, at), parts)
                source, number, x = "join", join, y
            case Weighted(body, weight):
                kind, own, end = apply(body, source, number, x)
                join = counts["join"]
                counts["join"] += 1
                y = np.zeros_like(x)
                for at in range(length):
                    update = weight * (end[at] - x[at])
                    parts = [(("residual", source, number, at), x[at]), (("branch", kind, own, at), update)]
                    y[at] = enter(("join", join, at), parts)
                source, number, x = "join", join, y
        return source, number, x

    apply(plan.root, "input", 0, run["states"][0][0].astype(np.float64))
    return found


def _heads(tiny: Tiny, index: int, x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(parts [N, S, S, D], bias [D])` of one layer's attention, from torch's weights."""
    module, config = tiny.torch_layers[index], tiny.torch.config
    heads, size = config.num_attention_heads, getattr(config, "head_dim", None) or 32 // config.num_attention_heads
    with torch.no_grad():
        normed = module.input_layernorm(torch.tensor(x, dtype=torch.float32))
        if hasattr(module, "attention"):
            joined = module.attention.query_key_value(normed).reshape(len(x), heads, 3 * size)
            values, output = joined[..., 2 * size :], module.attention.dense
        else:
            values = module.self_attn.v_proj(normed).reshape(len(x), -1, size)
            values, output = values.repeat_interleave(heads // values.shape[1], dim=1), module.self_attn.o_proj
    kernel = output.weight.detach().numpy().astype(np.float64)  # [D, N * H]
    parts = []
    for head in range(heads):
        written = values[:, head].numpy().astype(np.float64) @ kernel[:, head * size : (head + 1) * size].T
        parts.append(weights[head][:, :, None].astype(np.float64) * written[None])
    bias = np.zeros(len(kernel)) if output.bias is None else output.bias.detach().numpy().astype(np.float64)
    return np.array(parts), bias


def _name(node: RouteNode) -> tuple[Any, ...]:
    return node.kind, node.join if node.kind == "join" else node.event or 0, node.position


def _incoming(found: Routes) -> dict[tuple[Any, ...], dict[tuple[Any, ...], float]]:
    own: dict[tuple[Any, ...], dict[tuple[Any, ...], float]] = {_name(node): {} for node in found.nodes}
    for edge in found.edges:
        own[_name(found.nodes[edge.target])][(edge.kind, *_name(found.nodes[edge.source]))] = edge.share
    return own


def _whole(tiny: Tiny, plan: str, *changes: Any) -> Routes:
    return routes(tiny.model.run(TOKENS[:1], plan, *changes), threshold=0, renormalise=False)


class TestCheck8:
    """The whole graph: nothing left out, nothing divided again."""

    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.few(1)
    def test_what_leads_into_a_node_adds_up_to_1(self, tiny: Tiny, plan: str) -> None:
        found = _whole(tiny, plan)
        into = [sum(edge.share for edge in own) for own in found.into]
        inner = [node.kind not in ("input", "bias") for node in found.nodes]
        np.testing.assert_allclose(into, np.array(inner, float), atol=1e-5)
        assert found.nodes[-1].kind == ("join" if plan.endswith("}") else "state")
        # One layer of a sliding window does not reach further back.
        first = 7 - WINDOW if tiny is make_tiny("sliding window") and Plan.parse(plan).depth == 1 else 0
        assert {node.position for node in found.nodes if node.kind == "input"} == set(range(first, 7))
        kinds = {node.kind for node in found.nodes}
        assert ("join" in kinds) == ("{" in plan)
        assert ("attention" in kinds) == (tiny is not make_tiny("neox"))

    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.few(4)
    def test_every_share_is_the_naive_one(self, tiny: Tiny, plan: str) -> None:
        ours, theirs = _incoming(_whole(tiny, plan)), naive(tiny, TOKENS[:1], Plan.parse(plan))
        for node, own in ours.items():
            if node[0] in ("input", "bias", "mlp"):
                continue
            expected = {key: value for key, value in theirs[node].items() if value > 0}
            assert own.keys() == expected.keys()
            np.testing.assert_allclose([own[key] for key in expected], list(expected.values()), atol=1e-5)

    def test_a_feed_forward_reads_one_state(self, tiny: Tiny) -> None:
        into = _incoming(_whole(tiny, "0 {1 2} 3"))
        beside = tiny is make_tiny("neox")
        assert into["mlp", 3, 6] == {("mlp", "join", 0, 6) if beside else ("mlp", "attention", 3, 6): 1.0}

    @pytest.mark.few(3)
    def test_a_part_of_zeros_has_none(self, tiny: Tiny) -> None:
        changes = Knockout(queries=-1, keys=[1, 2], events=[1]), Scale(what="mlp", factor=0, events=[1])
        found = _incoming(_whole(tiny, "0 (1 2)*2 4", *changes))
        own = found["state", 1, 6]
        attended = own if tiny is make_tiny("neox") else found["attention", 1, 6]
        sources = {key[3] for key in attended if key[0] == "attention"}
        assert not sources & {1, 2}
        assert sources
        assert not any(key[0] == "mlp" for key in own)
        assert sum(own.values()) == pytest.approx(1, abs=1e-5)
        assert sum(attended.values()) == pytest.approx(1, abs=1e-5)

    def test_heads_add_up_to_their_edge(self, tiny: Tiny) -> None:
        edges = [edge for edge in _whole(tiny, "0 {1 2}").edges if edge.kind == "attention"]
        assert {len(edge.heads) for edge in edges} == {4}
        np.testing.assert_allclose([sum(edge.heads) for edge in edges], [edge.share for edge in edges], rtol=1e-5)
        assert all(edge.heads == () for edge in _whole(tiny, "0").edges if edge.kind != "attention")


class TestRoutes:
    MODEL = staticmethod(lambda: make_tiny("grouped-query").model)

    def test_only_what_is_above_the_threshold(self) -> None:
        run = self.MODEL().run(TOKENS, "0 {1-3}*2 4")
        whole, some = (routes(run, row=1, threshold=threshold, renormalise=False) for threshold in (0, 0.1))
        kept = {node: own for node, own in _incoming(some).items() if own}
        assert 0 < len(some.edges) < len(whole.edges)
        every = _incoming(whole)
        for node, own in kept.items():
            assert own == {key: share for key, share in every[node].items() if share > 0.1}
        # What is reached, and no more, from the last node down.
        assert _name(some.nodes[-1]) == ("state", 7, 6)
        sources = {edge.source for edge in some.edges}
        assert sources == set(range(len(some.nodes) - 1))
        assert all(edge.source < edge.target for edge in some.edges)

    def test_renormalised(self) -> None:
        run = self.MODEL().run(TOKENS, "0 {1-3}*2 4")
        some, again = routes(run, threshold=0.1, renormalise=False), routes(run, threshold=0.1)
        assert some.nodes == again.nodes
        assert again.renormalised
        for before, after in zip(some.into, again.into, strict=True):
            total = sum(edge.share for edge in before)
            np.testing.assert_allclose(
                [edge.share for edge in after], [edge.share / total for edge in before], rtol=1e-6
            )
            assert not after or sum(edge.share for edge in after) == pytest.approx(1, abs=1e-6)

    def test_an_end_without_a_share_above_the_threshold(self) -> None:
        found = routes(self.MODEL().run(TOKENS), threshold=0.99)
        assert [node.kind for node in found.nodes] == ["state"]
        assert found.edges == ()

    @pytest.mark.slow
    def test_positions_and_rows_of_unequal_lengths(self) -> None:
        model = self.MODEL()
        both = model.run([TOKENS[0].tolist(), TOKENS[1, :4].tolist()], "0 {1 2} 3")
        alone = model.run([TOKENS[1, :3].tolist()], "0 {1 2} 3")
        one, other = (routes(both, 2, 1, threshold=0), routes(alone, threshold=0))
        assert one.nodes == other.nodes
        np.testing.assert_allclose([edge.share for edge in one.edges], [edge.share for edge in other.edges], atol=1e-5)
        assert routes(both, -1, 1).nodes[-1].position == 3
        assert one.tokens == tuple(TOKENS[1, :4])

    @pytest.mark.slow
    def test_without_the_largest_coordinates(self) -> None:
        """A state with two coordinates thousands of times the others': shares are those without them."""
        tiny = make_tiny("grouped-query")
        value = np.zeros((1, 7, 32), np.float32)
        value[..., [5, 9]] = 3e4, -2e4
        blown = Replace(what="mlp", value=value, events=[1])
        plain = routes(tiny.model.run(TOKENS[:1], "0 1 2", blown), threshold=0, renormalise=False)
        last = _incoming(plain)["state", 2, 6]
        assert last["residual", "attention", 2, 6] > 0.99
        assert plain.left_out == ()
        found = routes(tiny.model.run(TOKENS[:1], "0 1 2", blown), threshold=0, renormalise=False, without=2)
        assert found.left_out == (5, 9)
        own = _incoming(found)["state", 2, 6]
        run = tiny.model.run(TOKENS[:1], "0 1 2", blown)
        kept = [at for at in range(32) if at not in (5, 9)]
        mlp = np.asarray(run.mlp_out)[2, 0, 6, kept]
        whole = np.asarray(run.states)[-1, 0, 6, kept]
        near = [np.abs(whole).sum() - np.abs(whole - part).sum() for part in (whole - mlp, mlp)]
        assert own["mlp", "mlp", 2, 6] == pytest.approx(near[1] / sum(near), abs=1e-4)
        assert 0.01 < own["mlp", "mlp", 2, 6] < 0.99

    def test_blocks_of_queries_are_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny = make_tiny("multi-query")
        whole = _whole(tiny, "0 {1 2}")
        monkeypatch.setattr(shares_module, "BLOCK_BYTES", 3 * 4 * 7 * 32)  # three queries
        of_attention.clear_cache()
        parts = _whole(tiny, "0 {1 2}")
        of_attention.clear_cache()
        np.testing.assert_allclose(
            [edge.share for edge in parts.edges], [edge.share for edge in whole.edges], atol=1e-6
        )

    @pytest.mark.slow
    def test_one_executable_serves_plans(self) -> None:
        model = make_tiny("head size").model
        for plan in ("0-4", "0 {1 2} 3", "0 {1-3} 4"):
            routes(model.run(TOKENS, plan), threshold=0)
        before = of_attention.executables(), of_parts.executables()
        for plan in ("4-0", "(0 1)*3 2", "{3 4} sum{0-2}", "{(0 1) (2 3)}"):
            routes(model.run(TOKENS, plan), threshold=0)
        assert (of_attention.executables(), of_parts.executables()) == before

    @pytest.mark.slow
    def test_layers_that_lie_apart(self) -> None:
        model = make_tiny("neox").model
        state = nnx.State({**model.state, "blocks": apart(model.state["blocks"])})
        one, other = (routes(each.run(TOKENS, "4 {0 2}"), threshold=0) for each in (model, replace(model, state=state)))
        np.testing.assert_allclose([edge.share for edge in one.edges], [edge.share for edge in other.edges], atol=1e-5)

    def test_frame_and_json(self) -> None:
        found = routes(self.MODEL().run(TOKENS, "0 {1-3}*2 4"))
        frame = found.frame()
        assert len(frame) == len(found.edges)
        first = found.edges[-1]
        row = frame.iloc[-1]
        assert (row.kind, row.source, row.target, row.share) == (first.kind, first.source, first.target, first.share)
        assert (row.target_kind, row.target_event, row.target_layer, row.target_position) == ("state", 7, 4, 6)
        branches = frame[frame.kind == "branch"]
        assert branches.target_join.isin([0, 1]).all()
        assert branches.target_event.isna().all()
        said = json.loads(json.dumps(found.to_json()))
        assert said["plan"] == "0 {1-3}*2 4"
        assert [
            RouteNode(**{name: value for name, value in node.items() if name != "id"}) for node in said["nodes"]
        ] == [*found.nodes]
        assert [RouteEdge(**{**edge, "heads": tuple(edge["heads"])}) for edge in said["edges"]] == [*found.edges]
        assert [token["id"] for token in said["tokens"]] == TOKENS[0].tolist()

    @pytest.mark.parametrize(
        ("how", "named"),
        [
            ({"position": 7}, "position 7 is not in a text of 7"),
            ({"position": 1.5}, "position is 1.5"),
            ({"row": 2}, "row 2"),
            ({"threshold": 1}, "threshold is 1"),
            ({"threshold": -0.1}, "threshold is -0.1"),
            ({"threshold": float("nan")}, "threshold is nan"),
            ({"threshold": "half"}, "threshold is half"),
            ({"without": 32}, "without is 32.*32 coordinates"),
            ({"without": -1}, "without is -1"),
        ],
    )
    def test_numbers_out_of_range(self, how: dict[str, Any], named: str) -> None:
        with pytest.raises(UserError, match=named):
            routes(self.MODEL().run(TOKENS), **how)

    def test_refusals(self) -> None:
        model = self.MODEL()
        with pytest.raises(UserError, match="state was changed"):
            routes(model.run(TOKENS, None, Scale(what="state", factor=2, steps=[1])))
        with pytest.raises(UserError, match="sum of its heads"):
            routes(model.run(TOKENS, None, Scale(what="attention", factor=2)))
        with pytest.raises(UserError, match="encoder"):
            routes(tiny_bert().run(TOKENS))

"""A run looked into and changed: parity with transformers' layers and torch's hooks, identities, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings

from jaxpaint.base.errors import UserError
from jaxpaint.engine import observe
from jaxpaint.engine.interventions import Knockout, Replace, Scale
from jaxpaint.engine.layers import apart
from jaxpaint.plans.events import events, steps
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import units
from tests.engine.test_compiled import whole_plans
from tests.helpers.bert_models import tiny_bert, torch_bert
from tests.helpers.decoders import PLANS, Tiny, make_tiny
from tests.helpers.torch_runs import torch_run

SEEN = ("states", "reads", "attention", "attention_out", "mlp_out", "logits")
FAMILIES = ("grouped-query", "neox", "neox, residuals in series", "sliding window", "qwen2, windows in turn")
FIVE = [PLANS[number] for number in (1, 6, 7, 8, 9)]
TOKENS = np.random.default_rng(3).integers(0, 61, (2, 11))


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return make_tiny(request.param)


@pytest.fixture(scope="module", params=["grouped-query", "neox"])
def one(request: pytest.FixtureRequest) -> Tiny:
    """Of RMS norms and residuals in series, or layer norms and residuals side by side."""
    return make_tiny(request.param)


def _same(run: Any, expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    run.keep("states", "reads", "attention", "attention_out", "mlp_out")
    for name in SEEN:
        scale = max(1.0, float(np.abs(expected[name]).max()))  # states of deep plans are of any size
        np.testing.assert_allclose(np.asarray(getattr(run, name)), expected[name], rtol=0, atol=tolerance * scale)


class TestParity:
    """What lies on the way, in float32, to 1e-5 of the largest number."""

    @pytest.mark.parametrize("plan", [PLANS[0], *FIVE], ids=str)
    @pytest.mark.few(3)
    def test_with_a_loop_over_transformers_layers(self, tiny: Tiny, plan: Plan) -> None:
        _same(tiny.model.run(TOKENS, plan), torch_run(tiny, TOKENS, plan))

    @pytest.mark.few(3)
    def test_with_transformers_own_outputs(self, tiny: Tiny) -> None:
        """The full plan: hidden states and attentions as the whole network gives them."""
        with torch.no_grad():
            theirs = tiny.torch(torch.tensor(TOKENS), output_hidden_states=True, output_attentions=True)
        run = tiny.model.run(TOKENS).keep("states", "attention")
        for ours, each in zip(run.states[:-1], theirs.hidden_states, strict=False):  # their last is normed
            np.testing.assert_allclose(np.asarray(ours), each.numpy(), rtol=0, atol=1e-5 * max(1, each.abs().max()))
        for ours, each in zip(run.attention, theirs.attentions, strict=True):
            np.testing.assert_allclose(np.asarray(ours), each.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.asarray(run.logits), theirs.logits.numpy(), rtol=0, atol=1e-4)

    def test_an_encoder(self) -> None:
        network, model = torch_bert(), tiny_bert()
        gives: dict[str, list[np.ndarray]] = {"attention": [], "mlp": []}
        hooks = []
        for layer in network.bert.encoder.layer:
            for name, module in (("attention", layer.attention.output.dense), ("mlp", layer.output.dense)):
                hook = lambda _, inputs, output, name=name: gives[name].append(output.numpy())  # noqa: E731
                hooks.append(module.register_forward_hook(hook))
        mask = torch.tensor(np.arange(11) < np.array([11, 7])[:, None]).long()
        with torch.no_grad():
            theirs = network.bert(torch.tensor(TOKENS), mask, output_hidden_states=True, output_attentions=True)
        for hook in hooks:
            hook.remove()
        run = model.run(TOKENS, lengths=[11, 7])
        pairs = [(run.states, theirs.hidden_states), (run.attention, theirs.attentions)]
        for ours, each in [*pairs, (run.attention_out, gives["attention"]), (run.mlp_out, gives["mlp"])]:
            for row, length in enumerate((11, 7)):
                stacked = np.stack([np.asarray(one)[row] for one in each])
                where = (
                    np.s_[:, :, :length, :length] if stacked.ndim == 4 and stacked.shape[1] == 4 else np.s_[:, :length]
                )
                np.testing.assert_allclose(np.asarray(ours)[:, row][where], stacked[where], rtol=0, atol=2e-5)

    @pytest.mark.few(2)
    def test_with_an_edge_blocked(self, tiny: Tiny) -> None:
        edges = np.zeros((4, 11, 11), bool)
        edges[2, 10, 7:] = True
        knockout = Knockout(queries=-1, keys=range(7, 11), steps=[3], heads=[2])
        expected = torch_run(tiny, TOKENS, PLANS[1], blocked=lambda number, _: edges if 4 <= number <= 6 else None)
        _same(tiny.model.run(TOKENS, PLANS[1], knockout), expected)

    @pytest.mark.few(1)
    def test_padding_changes_nothing(self, one: Tiny) -> None:
        alone = one.model.run(TOKENS[1:, :6], "0 {1-3} 4")
        beside = one.model.run([TOKENS[0].tolist(), TOKENS[1, :6].tolist()], "0 {1-3} 4")
        for run in (alone, beside):
            run.keep("states", "attention_out", "mlp_out")
        for name in ("states", "attention_out", "mlp_out"):
            ours = np.asarray(getattr(beside, name))[:, 1, :6]
            np.testing.assert_allclose(ours, np.asarray(getattr(alone, name))[:, 0], rtol=1e-5, atol=1e-5)

    @pytest.mark.few(1)
    def test_logits_are_the_models(self, one: Tiny) -> None:
        for plan in FIVE[:2]:
            ours, whole = (
                np.asarray(each) for each in (one.model.run(TOKENS, plan).logits, one.model.logits(TOKENS, plan))
            )
            np.testing.assert_allclose(ours, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


class TestInterventions:
    """Under a plan in which layers run several times and at once: `0 {1-3}*3 4`, events 0 to 10."""

    PLAN = PLANS[1]

    def test_knockout_in_layers(self, one: Tiny) -> None:
        edges = np.zeros((1, 11, 11), bool)
        edges[:, [9, 10], :4] = True
        knockout = Knockout(queries=[9, -1], keys=range(4), layers=[1, 3])
        expected = torch_run(one, TOKENS, self.PLAN, blocked=lambda _, layer: edges if layer in (1, 3) else None)
        _same(one.model.run(TOKENS, self.PLAN, knockout), expected)

    @pytest.mark.few(1)
    def test_a_query_without_keys_gives_zeros(self, one: Tiny) -> None:
        """Softmax has none; torch's would be uniform."""
        run = one.model.run(TOKENS, self.PLAN, Knockout(queries=4, keys=range(5), events=[0]))
        assert np.isfinite(np.asarray(run.logits)).all()
        np.testing.assert_array_equal(np.asarray(run.attention)[0, :, :, 4], 0)
        nothing = one.model.run(TOKENS, self.PLAN, Scale(what="attention", factor=0, positions=4, events=[0]))
        if one is make_tiny("grouped-query"):  # its output has no bias
            np.testing.assert_allclose(np.asarray(run.logits), np.asarray(nothing.logits), atol=1e-5)

    @pytest.mark.parametrize("what", ["attention", "mlp"])
    @pytest.mark.few(1)
    def test_scaled_and_replaced(self, one: Tiny, what: str) -> None:
        other = one.model.run(TOKENS[::-1].copy(), "4-0")
        value = np.asarray(other.attention_out if what == "attention" else other.mlp_out)[2][:, [3, 10]]
        changes = (
            Scale(what=what, factor=0.5, layers=[2]),
            Replace(what=what, value=value, positions=[3, -1], events=[5]),
            Scale(what=what, factor=0, steps=[5], positions=[0, 1]),
        )

        def change(number: int, layer: int, own: str, y: torch.Tensor) -> torch.Tensor:
            if own != what:
                return y
            y = y.clone()
            if layer == 2:
                y *= 0.5
            if number == 5:
                y[:, [3, 10]] = torch.tensor(value)
            if number == 10:
                y[:, :2] = 0
            return y

        _same(one.model.run(TOKENS, self.PLAN, *changes), torch_run(one, TOKENS, self.PLAN, change))

    def test_states(self, one: Tiny) -> None:
        value = np.asarray(one.model.run(TOKENS, "4-0").states)[3][1, 2]
        changes = (
            Replace(what="state", value=value, steps=[0, 2], positions=2, rows=[1]),
            Scale(what="state", factor=2.0, steps=[5]),
        )

        def change(number: int, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            if number in (0, 2):
                x[1, 2] = torch.tensor(value)
            return x * 2 if number == 5 else x

        _same(one.model.run(TOKENS, self.PLAN, *changes), torch_run(one, TOKENS, self.PLAN, change_state=change))

    @pytest.mark.few(1)
    def test_a_run_patched_with_itself_is_itself(self, one: Tiny) -> None:
        run = one.model.run(TOKENS, self.PLAN)
        patches = [
            Replace(what="state", value=run.states[2], steps=[2]),
            Replace(what="attention", value=run.attention_out[4], events=[4]),
            Replace(what="mlp", value=run.mlp_out[10], events=[10]),
        ]
        np.testing.assert_array_equal(
            np.asarray(one.model.run(TOKENS, self.PLAN, *patches).logits), np.asarray(run.logits)
        )

    def test_one_executable_serves_plans_windows_and_positions(self) -> None:
        model = make_tiny("grouped-query").model
        count = observe._observed_step.executables
        for keys in (0, [1, 2]):
            for plan in ("0-4", "4-0", "(1 2)*3"):
                _ = model.run(TOKENS, plan, Knockout(queries=-1, keys=keys)).logits
        first = count()
        for layer in (1, 2):
            for plan in ("0 2 1", "(1 2)*4", "1 2 4 2"):
                knockout = Knockout(queries=[3, 4], keys=range(3), layers=[layer])
                _ = model.run(TOKENS[:, ::-1].copy(), plan, knockout).logits
        assert count() - first <= 1  # steps without an intervention

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"queries": -1, "keys": 0, "layers": 9}, r"layers \[9\].*5 layers from 0 to 4"),
            ({"queries": -1, "keys": 0, "steps": [0]}, "steps 1 to 5"),
            ({"queries": 11, "keys": 0}, "position 11.*11 tokens"),
            ({"queries": 0, "keys": [-12]}, "position -12"),
            ({"queries": 0, "keys": 0, "heads": [4]}, "heads"),
            ({"queries": 0, "keys": 0, "rows": [2]}, "rows"),
            ({"queries": 0, "keys": []}, "keys.*is empty"),
            ({"queries": 0, "keys": 0, "layers": "1-3"}, "layers.*whole number"),
            ({"queries": 0, "keys": 0, "layers": slice(1, 3)}, "layers.*whole number"),
            ({"queries": 0, "keys": np.zeros(3, bool)}, "keys.*whole number"),
            ({"queries": 0, "keys": [1.7]}, "keys.*whole number"),
            ({"queries": 0, "keys": 0, "rows": [0, 0]}, "rows.*twice"),
            ({"what": "state", "factor": 0, "layers": [1]}, "steps="),
            ({"what": "state", "factor": 0}, "steps="),
            ({"what": "state", "factor": 0, "steps": [6]}, "0 .the embeddings. to 5"),
            ({"what": "norm", "factor": 0}, "norm"),
            ({"what": "mlp", "factor": "half"}, "factor"),
            ({"what": "mlp", "value": np.zeros(5)}, "hidden_size of 32"),
            ({"what": "mlp", "value": np.zeros((2, 3, 32))}, "11 positions"),
            ({"what": "mlp", "value": np.zeros((2, 20, 32))}, "11 positions"),
            ({"what": "mlp", "value": "abc"}, "array of numbers"),
        ],
    )
    def test_what_cannot_be_is_told(self, values: dict[str, Any], named: str) -> None:
        kind = Knockout if "keys" in values else Scale if "factor" in values else Replace
        with pytest.raises(UserError, match=named):
            make_tiny("grouped-query").model.run(TOKENS, self.PLAN, kind(**values))

    def test_keys_that_come_later_are_no_edges(self) -> None:
        """Of the last query, that is: a block of queries and keys has some that no query sees."""
        model = make_tiny("grouped-query").model
        with pytest.raises(UserError, match=r"keys \[5, 10\] stand behind the last query, 4.*leave them out"):
            model.run(TOKENS, self.PLAN, Knockout(queries=[0, 4], keys=[0, 5, -1]))
        rows = [TOKENS[0].tolist(), TOKENS[1, :5].tolist()]
        with pytest.raises(UserError, match=r"keys \[3\] stand behind the last query, 2"):
            model.run(rows, self.PLAN, Knockout(queries=2, keys=-2, rows=[1]))
        model.run(TOKENS, self.PLAN, Knockout(queries=range(3, 8), keys=range(3, 8)))
        tiny_bert().run(TOKENS, None, Knockout(queries=0, keys=[5]))  # which sees what comes later

    def test_what_is_no_intervention(self) -> None:
        with pytest.raises(UserError, match="no intervention"):
            make_tiny("grouped-query").model.run(TOKENS, self.PLAN, "knockout")  # type: ignore[arg-type]

    def test_numbers_in_any_form(self) -> None:
        model = make_tiny("grouped-query").model
        forms = (
            3,
            [3],
            (3,),
            {3},
            range(3, 4),
            np.array([3]),
            np.array(3),
            np.int64(3),
            jnp.array(3),
            (x for x in [3]),
        )
        runs = [model.run(TOKENS, self.PLAN, Knockout(queries=-1, keys=keys, layers=3)) for keys in forms]
        for run in runs[1:]:
            np.testing.assert_array_equal(np.asarray(run.logits), np.asarray(runs[0].logits))

    def test_a_state_of_rows_that_differ_in_length(self) -> None:
        """Positions below 0 are each row's own."""
        model, rows = make_tiny("grouped-query").model, [TOKENS[0, :4].tolist(), TOKENS[1].tolist()]
        run = model.run(rows)
        again = model.run(rows, None, Replace(what="state", value=run.state(4), steps=4, positions=-1))
        np.testing.assert_array_equal(np.asarray(again.last_logits), np.asarray(run.last_logits))
        np.testing.assert_array_equal(np.asarray(run.state(4)[0, 0]), np.asarray(run.states)[4, 0, 3])
        with pytest.raises(UserError, match="step 6"):
            run.state(6)


class TestLens:
    @pytest.mark.few(1)
    def test_last_state_says_the_models_logits(self, one: Tiny) -> None:
        for plan in FIVE:
            run = one.model.run(TOKENS, plan)
            logits = torch.tensor(np.asarray(one.model.logits(TOKENS, plan)))
            expected, tokens = torch.log_softmax(logits, -1).topk(4)
            lens = run.logit_lens(4)
            assert lens.tokens.shape == (len(run.steps) + 1, 2, 11, 4)
            np.testing.assert_array_equal(lens.tokens[-1], tokens.numpy())
            np.testing.assert_allclose(lens.logprobs[-1], expected.numpy(), rtol=1e-5, atol=1e-5)

    def test_states_are_normed_by_their_own_statistics(self, one: Tiny) -> None:
        run, base = one.model.run(TOKENS), one.torch.base_model
        norm = base.final_layer_norm if hasattr(base, "final_layer_norm") else base.norm
        with torch.no_grad():
            said = one.torch.get_output_embeddings()(norm(torch.tensor(np.asarray(run.states))))
        expected = torch.log_softmax(said, -1)[..., 7].numpy()
        np.testing.assert_allclose(run.logprobs(7), expected, rtol=1e-5, atol=1e-5)

    def test_parts_of_the_positions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_tiny("grouped-query").model
        whole = model.run(TOKENS).logit_lens(2)
        monkeypatch.setattr("jaxpaint.engine.lens.LOGITS_BYTES", 4 * 61 * 5)  # five positions
        parts = model.run(TOKENS).logit_lens(2)
        np.testing.assert_array_equal(parts.tokens, whole.tokens)
        np.testing.assert_allclose(parts.logprobs, whole.logprobs, rtol=1e-6)


class TestAttribution:
    @pytest.mark.parametrize("plan", [PLANS[0], *FIVE], ids=str)
    @pytest.mark.few(5)
    def test_parts_add_up_to_the_logit(self, one: Tiny, plan: Plan) -> None:
        run = one.model.run(TOKENS, plan)
        found = run.attribution(token=7, position=9)
        np.testing.assert_allclose(found.logit, np.asarray(run.logits)[:, 9, 7], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.remainder, 0, atol=1e-4)
        assert np.abs(found.mlp).max() > 1e-2

    def test_the_token_is_the_likeliest(self, one: Tiny) -> None:
        run = one.model.run([TOKENS[0].tolist(), TOKENS[1, :5].tolist()])
        found = run.attribution()
        assert found.position.tolist() == [10, 4]
        for row in range(2):
            assert found.token[row] == np.asarray(run.logits)[row, found.position[row]].argmax()
        np.testing.assert_allclose(found.remainder, 0, atol=1e-4)

    @pytest.mark.few(1)
    def test_by_head_and_source(self, one: Tiny) -> None:
        run = one.model.run(TOKENS, FIVE[0], Knockout(queries=-1, keys=8, layers=[2]))
        parts, bias = run.attribution_by_head(token=7)
        together = parts.sum(axis=(2, 3)) + bias
        np.testing.assert_allclose(together, run.attribution(token=7).attention, atol=1e-4)
        assert parts.shape == (len(run.events), 2, 4, 11)
        assert np.abs(parts[2, :, :, 8]).max() == 0  # event 2 is layer 2, whose edge is blocked
        assert np.abs(parts[1, :, :, 8]).max() > 0

    @pytest.mark.slow
    def test_layers_that_lie_apart(self) -> None:
        """As large ones do on GPUs."""
        model = make_tiny("neox").model
        state = nnx.State({**model.state, "blocks": apart(model.state["blocks"])})
        for one, other in zip(
            model.run(TOKENS, "4 {0 2}").attribution_by_head(7),
            replace(model, state=state).run(TOKENS, "4 {0 2}").attribution_by_head(7),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_refusals(self) -> None:
        model = make_tiny("grouped-query").model
        with pytest.raises(UserError, match="state was changed"):
            model.run(TOKENS, None, Scale(what="state", factor=2, steps=[1])).attribution(7)
        with pytest.raises(UserError, match="sum of its heads"):
            model.run(TOKENS, None, Scale(what="attention", factor=2)).attribution_by_head(7)
        with pytest.raises(UserError, match="position 11"):
            model.run(TOKENS).attribution(7, position=11)
        with pytest.raises(UserError, match="token 61"):
            model.run(TOKENS).attribution(61)
        with pytest.raises(UserError, match="whole number"):
            model.run(TOKENS).attribution(2.9)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="encoder"):
            tiny_bert().run(TOKENS).attribution(7)


class TestEvents:
    def test_weights_count_layers(self) -> None:
        for text, expected in (("0-23", 24), ("{9-22}", 1), ("{9-22}*3", 3), ("sum{9 10}", 2), ("{1 {2 3}}", 1)):
            assert sum(event.weight for event in events(Plan.parse(text))) == pytest.approx(expected)

    def test_places(self) -> None:
        found = [(each.number, each.layer, each.step, each.depth) for each in events(Plan.parse("0 {(1 2) 3}*2 4"))]
        assert found == [
            *((0, 0, 1, 0), (1, 1, 2, 1), (2, 2, 2, 2), (3, 3, 2, 1)),
            *((4, 1, 3, 3), (5, 2, 3, 4), (6, 3, 3, 3), (7, 4, 4, 5)),
        ]

    def test_labels(self) -> None:
        labels = [step.label for step in steps(Plan.parse("0 ({1 2}*2 3)*2"))]
        assert labels == ["0", "{1 2} 1/2 1/2", "{1 2} 1/2 2/2", "3 1/2", "{1 2} 2/2 1/2", "{1 2} 2/2 2/2", "3 2/2"]

    @settings(max_examples=100, deadline=None)
    @given(whole_plans)
    def test_steps_are_units_and_events_the_cost(self, plan: Plan) -> None:
        found = events(plan)
        assert [step.plan for step in steps(plan)] == [Plan.of(unit) for unit in units(plan)]
        assert [event.number for event in found] == list(range(plan.cost))
        assert max(event.depth for event in found) == plan.depth - 1


class TestFace:
    def test_texts_and_plans_as_text(self, tmp_path: Any) -> None:
        model = make_tiny("grouped-query").model
        np.testing.assert_array_equal(model.logits(TOKENS, "0 {1-3} 4"), model.logits(TOKENS, Plan.parse("0 {1-3} 4")))
        with pytest.raises(UserError, match="no tokenizer"):
            model.run("a text")

    def test_rows_of_unequal_lengths(self) -> None:
        model = make_tiny("grouped-query").model
        rows = [TOKENS[0].tolist(), TOKENS[1, :3].tolist()]
        whole = model.logits(np.array([rows[0], rows[1] + [0] * 8]), lengths=[11, 3])
        np.testing.assert_array_equal(model.logits(rows), whole)
        with pytest.raises(UserError, match="unequal lengths"):
            model.logits(rows, lengths=[11, 3])
        with pytest.raises(UserError, match="integers"):
            model.logits([[1, 2], 3])  # type: ignore[list-item]

    def test_only_what_is_asked_for_is_kept(self) -> None:
        run = make_tiny("grouped-query").model.run(TOKENS, keep=("states",))
        assert set(run._kept) == {"states", "last"}
        with pytest.raises(UserError, match="pattern"):
            run.keep("pattern")  # type: ignore[arg-type]

    def test_frame(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_tiny("grouped-query").model.run([TOKENS[0, :4].tolist(), TOKENS[1, :2].tolist()], "0 {1 2}*2")
        frame = run.frame()
        assert len(frame) == (4 + 2) * 4
        assert frame.label.unique().tolist() == ["embeddings", "0", "{1 2} 1/2", "{1 2} 2/2"]
        last = frame[(frame.row == 0) & (frame.step == 3) & (frame.position == 3)].iloc[0]
        assert last.lens_token == np.asarray(run.logits)[0, 3].argmax()
        assert last.norm == pytest.approx(float(np.linalg.norm(np.asarray(run.states)[3, 0, 3])), rel=1e-5)

    def test_repr_is_short(self) -> None:
        assert repr(make_tiny("grouped-query").model.run(TOKENS)) == "Run(plan='0-4', 5 steps, tokens 2 x 11)"

"""How facts flow: painter-16's, read from files, verdicts. Numbers are those of the checks of the sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jax import nn

import jaxpaint
from jaxpaint.analysis.asking import BRANCHES, PATCHES, SUBLAYERS, asked, window_size
from jaxpaint.analysis.enrichment import words_told
from jaxpaint.analysis.extraction import most_likely
from jaxpaint.analysis.facts import Fact, encoded_fact, read_facts
from jaxpaint.analysis.flow import flows
from jaxpaint.analysis.knockouts import EVERYWHERE, Prompt, Window, centred, knock_out
from jaxpaint.analysis.patching import donors, extracts_with
from jaxpaint.analysis.words import words_of
from jaxpaint.analysis.written import written
from jaxpaint.base.errors import UserError
from jaxpaint.engine.interventions import Knockout, Replace, Scale
from jaxpaint.painter import world
from jaxpaint.painter.facts import facts
from jaxpaint.plans.events import branches
from jaxpaint.report.flow import LabelledFlow
from jaxpaint.report.flow_text import plan_lines
from jaxpaint.results.flow import Flow, Verdict
from tests.analysis.test_knockouts import _prompts
from tests.helpers.decoders import make_tiny


@pytest.fixture(scope="module")
def painter() -> jaxpaint.Model:
    return jaxpaint.load("painter-16", dtype="float32")


def test_4_what_painter_16_reads(painter: jaxpaint.Model) -> None:
    prompts, answers = [], []
    for fact in facts():
        words, (prompt, answer) = fact.prompt.split(), encoded_fact(painter.tokenizer, fact)
        before = len(prompt.tokens) - len(words)
        named = fact.subject, words[words.index("the") + 1], "the"
        town, kind, the = ((before + words.index(word),) for word in named)
        last = len(prompt.tokens) - 1
        prompts.append(Prompt(prompt.tokens, (town, kind, the, (last,), tuple(range(last)))))
        assert prompt.sets[0] == town
        answers.append(answer)
    assert len(prompts) == 96
    (found,) = knock_out(painter, prompts, ["0-15"], [EVERYWHERE])
    assert found.token.tolist() == answers
    np.testing.assert_allclose(found.left[:, 0].mean(axis=0), [0.167, 0.198, 1, 1, 0], atol=0.02)


@pytest.mark.slow
def test_flow_of_painter_16(painter: jaxpaint.Model) -> None:
    """In order and looped: what is known, and that the relation is read before the subject."""
    full, looped, reverse = flows(painter, facts(), ["0-15", "0-3 {4-11}*2 12-15", "15-0"])
    assert full.known.all()
    assert 0.5 < looped.known.mean() < 1
    assert not reverse.known.any()
    assert full.in_order
    assert not looped.in_order
    # Equal windows lie in other rows of a batch, which some processors' products round otherwise; these are percents.
    np.testing.assert_allclose(full.by_depth.value, full.by_layer.value, rtol=0, atol=1e-5)
    assert looped.by_depth.value.shape == (10, 3)
    assert looped.by_layer.value.shape == (16, 3)
    assert np.abs(looped.everywhere.value[0, :2]).min() > 50
    for each in (full, looped):
        assert each.verdicts[2].answer == "holds"
        assert each.verdicts[2].mean < -1
    assert full.verdicts[1].answer == "does not hold"  # as it does in large models
    assert {verdict.answer for verdict in reverse.verdicts if verdict.claim != "enriched"} == {"cannot be told"}
    again = flows(painter, facts(), ["0-3 {4-11}*2 12-15"])[0]
    np.testing.assert_allclose(again.by_depth.value, looped.by_depth.value, atol=1e-2)  # other leaves, one group


@pytest.mark.slow
def test_6_windows_of_painter_16(painter: jaxpaint.Model) -> None:
    """In order windows of steps and of layers are one thing; in a loop two, and both are told."""
    full, looped = flows(painter, facts()[:12], ["0-15", "0-3 (4-11)*2 12-15"])
    np.testing.assert_allclose(full.by_depth.value, full.by_layer.value, rtol=0, atol=1e-5)
    assert looped.known.any()
    assert (len(looped.by_depth.value), len(looped.by_layer.value)) == (24, 16)
    # Around layer 8 two turns are blocked, around a step of it one.
    assert np.abs(looped.by_layer.value[8] - looped.by_depth.value[[8, 16]]).max() > 5
    told = "\n".join(plan_lines(LabelledFlow("looped", looped), 3))
    assert "3 steps at once, around\n" in told
    assert "3 layers at once, around\n" in told


@pytest.mark.slow
def test_the_same_call_gives_the_same_digits(painter: jaxpaint.Model) -> None:
    once, again = (flows(painter, facts()[:20], ["0-15", "0-3 {4-11} 12-15"]) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.by_depth.value, other.by_depth.value)
        assert one.value == other.value


def test_verdicts_can_be_no() -> None:
    drawn = np.random.default_rng(0)
    assert Verdict.of("order", drawn.normal(-1, 1, 100)).answer == "holds"
    assert Verdict.of("order", drawn.normal(1, 1, 100)).answer == "does not hold"
    assert Verdict.of("order", drawn.normal(0, 1, 100)).answer == "cannot be told"
    assert Verdict.of("order", np.array([-1.0])).answer == "cannot be told"
    assert Verdict.of("order", np.zeros(0)).answer == "cannot be told"
    assert Verdict.of("order", drawn.normal(1, 1, 100), below=5).answer == "holds"
    few = [Verdict.of("order", np.full(count, -1.0)).answer for count in (2, 4, 5)]
    assert few == ["cannot be told", "cannot be told", "holds"]


@pytest.mark.slow
def test_branches_are_blocked_one_by_one(painter: jaxpaint.Model) -> None:
    """Each branch's window is a run without its edges."""
    group, series = flows(painter, facts()[:12], ["0-4 {5 6}*2 7-15", "0-15"], extras=[BRANCHES])
    assert series.by_branch.value.shape == (0, 3)
    assert group.by_branch.value.shape == (4, 3)
    asked = [encoded_fact(painter.tokenizer, fact) for fact in facts()[:12]]
    tokens = [prompt.tokens for prompt, _ in asked]
    rows, answers = np.arange(12), np.array([answer for _, answer in asked])
    for number, event in enumerate((5, 6, 7, 8)):
        changes = [
            Knockout(queries=-1, keys=prompt.sets[0], rows=[row], events=[event])
            for row, (prompt, _) in enumerate(asked)
        ]
        own, without = (
            np.asarray(nn.log_softmax(painter.run(tokens, str(group.plan), *each).last_logits))[rows, answers]
            for each in ((), changes)
        )
        change = 100 * np.expm1(without - own)[group.known]
        np.testing.assert_allclose(group.by_branch.value[number, 0], change.mean(), atol=1e-2)


@pytest.mark.parametrize(("variation", "plan"), [("grouped-query", "0-2 {3 4} 4*2"), ("neox", "4-0")])
@pytest.mark.slow
def test_patches_are_runs_with_early_states(variation: str, plan: str) -> None:
    """Against interventions: states replaced before an event, whose attention alone is looked at."""
    model, prompts = make_tiny(variation).model, _prompts(6)
    run = model.run([prompt.tokens for prompt in prompts], plan)
    token, last = np.asarray(run.last_logits.argmax(axis=-1)), run.lengths - 1
    states = donors(len(run.steps))
    assert states[0] == 0
    found = extracts_with(run, prompts, [0, 2])
    for at, donor in enumerate((0, 2)):
        for key in range(3):
            for event in run.events:
                before = event.step - 1
                changes = [
                    Replace(
                        what="state",
                        value=np.asarray(run.states)[donor, row, list(prompt.sets[key])],
                        steps=[before],
                        positions=prompt.sets[key],
                        rows=[row],
                    )
                    for row, prompt in enumerate(prompts)
                    if before > donor
                ]
                changed = model.run([prompt.tokens for prompt in prompts], plan, *changes)
                update = changed.attention_out[event.number, np.arange(6), last]
                own = most_likely(model.graphdef, model.state, update[None])[0] == token
                np.testing.assert_array_equal(found[at, key, event.number], own)


@pytest.mark.parametrize("plan", ["0-4", "4-0", "0 {1 2 (3 4)}*2 4", "sum{1 2} 3", "0 (1 {2@0.5 3})@0.75*2 4"])
@pytest.mark.few(1)
def test_what_writes_the_answer_adds_up(plan: str) -> None:
    model, prompts = make_tiny("neox").model, _prompts(6)
    run = model.run([prompt.tokens for prompt in prompts], plan)
    found, whole = written(run, prompts), run.attribution()
    _, biases = run.attribution_by_head()
    assert found.shape == (6, run.plan.depth, 5)
    rest = whole.embedding + whole.bias + biases.sum(axis=0)
    np.testing.assert_allclose(found.sum(axis=(1, 2)) + rest, whole.logit, atol=1e-4)


@pytest.mark.slow
def test_a_flow_is_read_as_it_was_kept(painter: jaxpaint.Model) -> None:
    plans = ["0-15", "0-3 {4-11}*2 12-15", "15-0"]
    for flow in flows(painter, facts()[:8], plans, extras=[BRANCHES, PATCHES]):
        kept = json.loads(json.dumps(flow.value, allow_nan=False))
        again = Flow.read(str(flow.plan), kept)
        assert again.value == kept
        assert again.plan == flow.plan
        np.testing.assert_array_equal(again.known, flow.known)
        for name in ("everywhere", "by_depth", "by_layer", "by_branch"):
            for one, other in zip(getattr(flow, name), getattr(again, name), strict=True):
                np.testing.assert_array_equal(one, other.reshape(one.shape))
        assert [v.answer for v in again.verdicts] == [v.answer for v in flow.verdicts]
        if flow.known.any():
            np.testing.assert_array_equal(again.patched.share.value, flow.patched.share.value)
            np.testing.assert_array_equal(again.extraction.mlp, flow.extraction.mlp)
        np.testing.assert_array_equal(again.enriched.own.value, flow.enriched.own.value)
        # Kept before changes of the logit and answers left were.
        old = Flow.read(str(flow.plan), kept[:-2])
        assert old.logit is old.answers_left is None
        assert old.value == kept[:-2]


@pytest.mark.slow
def test_every_window_has_its_logit_and_its_answers_left(painter: jaxpaint.Model) -> None:
    """Against the knockouts one by one, of facts that the plan knows."""
    plan = "0-3 {4-11}*2 12-15"
    (flow,) = flows(painter, facts()[:12], [plan], extras=[BRANCHES])
    prompts = [encoded_fact(painter.tokenizer, fact)[0] for fact in facts()[:12]]
    last = [Window("event", branch.first, branch.stop) for branch in branches(flow.plan)][-1]
    windows = [EVERYWHERE, centred("depth", 3, 10)[4], centred("layer", 3, 16)[7], last]
    (alone,) = knock_out(painter, prompts, [plan], windows)
    found = [("everywhere", 0), ("by_depth", 4), ("by_layer", 7), ("by_branch", -1)]
    for number, (name, at) in enumerate(found):
        logit, left = alone.logit_change[flow.known, number], alone.left[flow.known, number]
        np.testing.assert_allclose(getattr(flow.logit, name).value[at], logit.mean(axis=0), atol=1e-4)
        stderr = logit.std(axis=0, ddof=1) / np.sqrt(flow.known.sum())
        np.testing.assert_allclose(getattr(flow.logit, name).stderr[at], stderr, atol=1e-4)
        np.testing.assert_allclose(getattr(flow.answers_left, name).value[at], left.mean(axis=0), atol=1e-6)
    assert 0 < flow.answers_left.by_depth.value[:, 0].min() < 1
    first = next(verdict for verdict in flow.verdicts if verdict.claim == "first")
    assert 0 <= first.mean <= 1


@pytest.mark.slow
def test_11_towns_are_not_enriched(painter: jaxpaint.Model) -> None:
    (flow,) = flows(painter, facts(), ["0-15"])
    assert flow.enriched.own.value.shape == (17, 4)
    np.testing.assert_array_equal(flow.enriched.own.value[:, 0], flow.enriched.own.value[:, 1])  # of one token
    assert flow.enriched.own_by_branch is None
    (verdict,) = [verdict for verdict in flow.verdicts if verdict.claim == "enriched"]
    assert verdict.answer == "does not hold"
    assert verdict.prompts == len({fact.subject for fact in facts()})


@pytest.mark.parametrize("of_words", [False, True])
@pytest.mark.slow
def test_what_a_subject_tells_at_the_ends_of_branches(painter: jaxpaint.Model, of_words: bool) -> None:
    """Against runs of each branch by itself, after what precedes its group; at each of the four places."""
    told = facts()[:12]
    if of_words:
        told = [replace(fact, attributes=(), about=f"{' '.join(fact.attributes)} of {fact.subject}") for fact in told]
    plan = "0-3 {(4-7) 8 (9 {10@0.5 (11-12)})*2} 13 sum{14 15}"
    alone = ["0-3 4-7", "0-3 8", "0-3 (9 {10@0.5 (11-12)})*2"]
    begun = "0-3 {(4-7) 8 (9 {10@0.5 (11-12)})*2} 13"
    alone += [f"{begun} 14", f"{begun} 15"]
    whole, *each = flows(painter, told, [plan, *alone])
    assert [branch.step for branch in branches(whole.plan)] == [5, 5, 5, 7, 7]
    for name in ("own", "control"):
        found = getattr(whole.enriched, f"{name}_by_branch")
        assert found.value.shape == (5, 4)
        for number, flow in enumerate(each):
            expected = getattr(flow.enriched, name)
            np.testing.assert_allclose(found.value[number], expected.value[-1], atol=1e-6)
            np.testing.assert_allclose(found.stderr[number], expected.stderr[-1], atol=1e-6)
    assert np.ptp(whole.enriched.own_by_branch.value, axis=0).any()  # branches do differ
    again = Flow.read(plan, json.loads(json.dumps(whole.value)))
    np.testing.assert_array_equal(again.enriched.own_by_branch.value, whole.enriched.own_by_branch.value)
    np.testing.assert_array_equal(again.enriched.control.stderr, whole.enriched.control.stderr)


@pytest.mark.slow
def test_texts_about_subjects(painter: jaxpaint.Model, monkeypatch) -> None:
    """Of each subject once, at four places, with the next subject's text as a control; one row at a time, too."""
    from jaxpaint.analysis import runs

    told = [replace(fact, attributes=(), about=f"{' '.join(fact.attributes)} of {fact.subject}") for fact in facts()]
    assert asked(painter, told[:4]).setting.facts != asked(painter, facts()[:4]).setting.facts
    (flow,) = flows(painter, told[:8], ["0-3 {4-11}*2 12-15"])
    firsts = {fact.subject: fact for fact in reversed(told[:8])}
    numbers = sorted(told.index(fact) for fact in firsts.values())
    assert flow.enriched.own.value.shape == flow.enriched.control.stderr.shape == (11, 4)
    (verdict,) = [each for each in flow.verdicts if each.claim == "told"]
    assert verdict.prompts == len(numbers)
    prompts = [encoded_fact(painter.tokenizer, told[number])[0] for number in numbers]
    words = [words_of(told[number].about) for number in numbers]
    places = [(own.sets[0][-1], own.sets[0][0], own.sets[0][-1] + 1, len(own.tokens) - 1) for own in prompts]
    run = painter.run([own.tokens for own in prompts], flow.plan)
    found = words_told(run, places, words, [*words[1:], words[0]])
    for place, each in enumerate(found):
        np.testing.assert_allclose(flow.enriched.own.value[:, place], each.own.mean(axis=1))
        np.testing.assert_allclose(flow.enriched.control.value[:, place], each.control.mean(axis=1))
    assert flow.enriched.own.value[:, 0].max() > 0
    assert verdict.mean == pytest.approx((found[0].control - found[0].own)[9].mean())  # 41 in 48 of ten steps
    again = Flow.read(str(flow.plan), flow.value)
    np.testing.assert_array_equal(again.enriched.own.value, flow.enriched.own.value)
    monkeypatch.setattr(runs, "budgets", lambda: type("Budgets", (), {"analysis_bytes": 1}))
    (single,) = flows(painter, told[:8], ["0-3 {4-11}*2 12-15"])
    np.testing.assert_allclose(single.enriched.control.value, flow.enriched.control.value)


@pytest.mark.parametrize("plan", ["0-15", "0-3 {4-11}*2 12"])
@pytest.mark.slow
def test_what_a_subject_tells_without_sublayers(painter: jaxpaint.Model, plan: str) -> None:
    """Against runs with each layer's output scaled to nothing, one subject at a time."""
    (flow,) = flows(painter, facts()[:8], [plan], extras=[SUBLAYERS])
    chosen = [
        fact for number, fact in enumerate(facts()[:8]) if fact.subject not in {f.subject for f in facts()[:number]}
    ]
    found, state = flow.silenced, round(41 / 48 * len(flow.enriched.own.value) - 41 / 48)
    assert found.attention.value.shape == found.mlp.value.shape == (13, 1)
    np.testing.assert_array_equal(found.own.value[0], flow.enriched.own.value[state, :1])
    for first, layers in ((0, range(4)), (7, range(7, 11)), (12, [12])):
        for what in ("attention", "mlp"):
            shares = []
            for fact in chosen:
                prompt, _ = encoded_fact(painter.tokenizer, fact)
                changes = [Scale(what=what, factor=0, layers=[layer]) for layer in layers]
                run = painter.run([prompt.tokens], flow.plan, *changes)
                top = run.logit_lens(4, prompt.sets[0][-1]).tokens[state, 0, 0]
                own = painter.tokenizer.convert_tokens_to_ids(list(fact.attributes))
                shares.append(len({*top.tolist()} & {*own}) / 4)
            assert getattr(found, what).value[first, 0] == pytest.approx(np.mean(shares))
    again = Flow.read(plan, flow.value)
    np.testing.assert_array_equal(again.silenced.mlp.stderr, found.mlp.stderr)
    (verdict,) = [each for each in again.verdicts if each.claim == "built"]
    assert verdict.mean == pytest.approx(float((found.mlp.value - found.attention.value)[0, 0]))
    with pytest.raises(UserError, match="what subjects tell"):
        asked(painter, [replace(facts()[0], attributes=())], extras=[SUBLAYERS])


def test_texts_that_cannot_be_asked_about(painter: jaxpaint.Model, tmp_path: Path) -> None:
    own = replace(facts()[0], attributes=(), about="a town of hares")
    for given, named in (
        ([own, replace(own, about="")], "give every fact one, or none"),
        ([replace(facts()[0], about="a town of hares")], "give one of the two"),
    ):
        with pytest.raises(UserError, match=named):
            asked(painter, given)
    entry = {"prompt": "a b c", "subject": "b", "answer": "d"}
    (tmp_path / "facts.json").write_text(json.dumps([{**entry, "about": "b is a letter"}]), encoding="utf-8")
    assert read_facts(tmp_path / "facts.json")[0].about == "b is a letter"
    (tmp_path / "facts.json").write_text(json.dumps([{**entry, "about": ["b"]}]), encoding="utf-8")
    with pytest.raises(UserError, match="give a text about the subject"):
        read_facts(tmp_path / "facts.json")


@pytest.mark.slow
def test_subjects_are_asked_one_at_a_time_too(painter: jaxpaint.Model, monkeypatch) -> None:
    from jaxpaint.analysis import runs

    (whole,) = flows(painter, facts()[:6], ["0-15"])
    monkeypatch.setattr(runs, "budgets", lambda: type("Budgets", (), {"analysis_bytes": 1}))
    (single,) = flows(painter, facts()[:6], ["0-15"])
    for name in ("own", "control"):
        for one, other in zip(getattr(whole.enriched, name), getattr(single.enriched, name), strict=True):
            np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(whole.written.value, single.written.value, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        (("hare", "gold"), "has 2 attributes and .* 4; give every fact equally many"),
        (("hare", "hare", "gold", "pie"), "not told apart by their first tokens"),
        (("hare", "unheardof", "gold", "pie"), "not told apart by their first tokens"),
    ],
)
def test_attributes_that_tell_nothing(painter: jaxpaint.Model, attributes: tuple[str, ...], named: str) -> None:
    """Before anything is computed."""
    first, second = facts()[:2]
    odd = Fact(second.prompt, second.subject, second.answer, attributes)
    with pytest.raises(UserError, match=named):
        flows(painter, [first, odd], ["0-15"])


def test_a_subject_that_is_named_twice(painter: jaxpaint.Model) -> None:
    """Every token of it, within the prompt; examples before it are the rest's."""
    town, kind = sorted(world.FACTS)[0]
    fact = Fact(f"{town} is here . the {kind} of {town} is", town, world.FACTS[town, kind])
    prompt, _ = encoded_fact(painter.tokenizer, fact, before=f"{town} is here . ")
    names = painter.tokenizer.convert_ids_to_tokens(list(prompt.tokens))
    behind = [at for at, name in enumerate(names) if name == town]
    assert len(behind) == 3
    assert list(prompt.sets[0]) == behind[1:]
    assert behind[0] in prompt.sets[1]


def test_windows_are_a_fifth() -> None:
    assert [window_size(layers) for layers in (1, 16, 28, 30, 48)] == [1, 3, 5, 5, 9]


def test_facts_of_a_file(tmp_path: Path, painter: jaxpaint.Model) -> None:
    town, kind = next(iter(sorted(world.FACTS)))
    entry = {"prompt": f"fact : the {kind} of {town} is ", "subject": town, "attribute": world.FACTS[town, kind]}
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([entry, {**entry, "answer": "x"}]))
    first, second = read_facts(file)
    assert first == Fact(entry["prompt"].strip(), town, entry["attribute"])
    assert second.answer == "x"
    prompt, answer = encoded_fact(painter.tokenizer, first)
    assert painter.tokenizer.decode([answer]) == entry["attribute"]
    assert [painter.tokenizer.decode([prompt.tokens[at]]) for at in prompt.sets[0]] == [town]
    behind, _ = encoded_fact(painter.tokenizer, first, before=f"{town} is here . ")
    assert behind.sets[0][0] == len(behind.tokens) - 2  # the last time that it occurs
    without, _ = encoded_fact(painter.tokenizer, first, bos=False)
    assert len(prompt.tokens) - len(without.tokens) in (0, 1)


def test_facts_that_cannot_be_asked(painter: jaxpaint.Model) -> None:
    fact = facts()[0]
    for wrong, named in (
        (Fact(fact.prompt, "nobody", fact.answer), "'nobody' is not in the text"),
        (Fact(f"{fact.prompt} {fact.subject}", fact.subject, fact.answer), "ends the prompt"),
        (Fact(f"{fact.subject} is", fact.subject, fact.answer), "nothing beside its subject"),
    ):
        with pytest.raises(UserError, match=named):
            encoded_fact(painter.tokenizer, wrong)
    with pytest.raises(UserError, match="'sopas' is not in the text"):  # in an example alone
        encoded_fact(painter.tokenizer, Fact(fact.prompt, "sopas", fact.answer), before="sopas has the animal goat . ")
    for plans, size in (([], None), ("0-15", None), (["0-15"], 0)):
        with pytest.raises(UserError, match=r"plans is|size is"):
            flows(painter, facts()[:2], plans, size=size)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ("[]", "no list of facts"),
        ('{"prompt": "a"}', "no list of facts"),
        ('[{"prompt": "a b", "subject": "a"}]', "fact 1 .* lacks"),
        ('[{"prompt": "a b", "subject": "a", "answer": "c"}, 3]', "fact 2 .* lacks"),
        ('[{"prompt": "a b", "subject": "z", "answer": "c"}]', "subject 'z' is not in its prompt"),
        ('[{"prompt": "\\ud800 b", "subject": "b", "answer": "c"}]', "fact 1 .* half a character"),
        ('[{"prompt": "a b", "subject": "a", "answer": "c", "attributes": "d"}]', "its attributes are 'd'"),
    ],
)
def test_files_of_no_facts(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "facts.json"
    file.write_text(content)
    with pytest.raises(UserError, match=named):
        read_facts(file)

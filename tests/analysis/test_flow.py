"""How facts flow: painter-16's, read from files, verdicts. Numbers are those of the checks of the sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxpaint
from jaxpaint.analysis.facts import Fact, encoded_fact, read_facts
from jaxpaint.analysis.flow import _verdict, flows, window_size
from jaxpaint.analysis.knockouts import EVERYWHERE, Prompt, knock_out
from jaxpaint.base.errors import UserError
from jaxpaint.painter import world
from jaxpaint.painter.facts import facts


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


def test_flow_of_painter_16(painter: jaxpaint.Model) -> None:
    """In order and looped: what is known, and that the relation is read before the subject."""
    full, looped, reverse = flows(painter, facts(), ["0-15", "0-3 {4-11}*2 12-15", "15-0"])
    assert full.known.all()
    assert 0.5 < looped.known.mean() < 1
    assert not reverse.known.any()
    assert full.in_order
    assert not looped.in_order
    np.testing.assert_array_equal(full.by_depth.value, full.by_layer.value)
    assert looped.by_depth.value.shape == (10, 3)
    assert looped.by_layer.value.shape == (16, 3)
    assert np.abs(looped.everywhere.value[0, :2]).min() > 50
    for each in (full, looped):
        assert each.verdicts[2].answer == "holds"
        assert each.verdicts[2].mean < -1
    assert full.verdicts[1].answer == "does not hold"  # as it does in large models
    assert [verdict.answer for verdict in reverse.verdicts] == ["cannot be told"]
    again = flows(painter, facts(), ["0-3 {4-11}*2 12-15"])[0]
    np.testing.assert_allclose(again.by_depth.value, looped.by_depth.value, atol=1e-2)  # other leaves, one group


def test_the_same_call_gives_the_same_digits(painter: jaxpaint.Model) -> None:
    once, again = (flows(painter, facts()[:20], ["0-15", "0-3 {4-11} 12-15"]) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.by_depth.value, other.by_depth.value)
        assert one.verdicts == other.verdicts


def test_verdicts_can_be_no() -> None:
    drawn = np.random.default_rng(0)
    assert _verdict("", drawn.normal(-1, 1, 100)).answer == "holds"
    assert _verdict("", drawn.normal(1, 1, 100)).answer == "does not hold"
    assert _verdict("", drawn.normal(0, 1, 100)).answer == "cannot be told"
    assert _verdict("", np.array([1.0])).answer == "cannot be told"
    assert _verdict("", drawn.normal(1, 1, 100), below=5).answer == "holds"


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
    ],
)
def test_files_of_no_facts(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "facts.json"
    file.write_text(content)
    with pytest.raises(UserError, match=named):
        read_facts(file)

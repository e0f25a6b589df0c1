"""Extraction and enrichment, checks 10 and 11 of the information-flow sheet."""

from __future__ import annotations

import numpy as np
import pytest

import jaxpaint
from jaxpaint.analysis.enrichment import enrichment, words_told
from jaxpaint.analysis.extraction import Extraction, extraction, updates
from jaxpaint.analysis.words import tells, words_of
from jaxpaint.base.errors import UserError
from jaxpaint.engine.interventions import Replace
from jaxpaint.painter import language, world
from tests.analysis.test_knockouts import _prompts
from tests.helpers.decoders import PLANS, make_tiny


@pytest.mark.parametrize("variation", ["grouped-query", "neox"])
@pytest.mark.slow
def test_10_counts_are_numpys(variation: str) -> None:
    """From the updates alone, scaled by any positive number, in NumPy."""
    tiny, prompts = make_tiny(variation), _prompts(40)
    head = tiny.torch.get_output_embeddings().weight.detach().numpy()
    base = tiny.torch.base_model
    scale = (base.final_layer_norm if hasattr(base, "final_layer_norm") else base.norm).weight.detach().numpy()
    for plan in (PLANS[1], PLANS[8]):
        run = tiny.model.run([prompt.tokens for prompt in prompts], plan)
        found = extraction(run)
        logits = np.asarray(run.logits)[np.arange(40), run.lengths - 1]
        np.testing.assert_array_equal(found.token, logits.argmax(axis=-1))
        for name, update in updates(run).items():
            update = np.asarray(update) * 3.7
            if variation == "neox":
                update = update - update.mean(axis=-1, keepdims=True)
            extracts = ((update * scale) @ head.T).argmax(axis=-1) == found.token
            np.testing.assert_array_equal(getattr(found, name), extracts)
        shares = found.shares
        assert shares["attention"] + shares["mlp"] - shares["both"] + shares["neither"] == pytest.approx(1)
        assert found.steps.any()
        depths = [event.depth for event in run.events]
        assert found.later(depths).tolist() == list(_later(found, depths))


def _later(found, depths):
    """Prompt by prompt, as one counts it."""
    for prompt in range(found.token.size):
        firsts = [
            min((at for at, extracts in zip(depths, kind[:, prompt], strict=True) if extracts), default=None)
            for kind in (found.attention, found.mlp)
        ]
        if None not in firsts:
            yield float(firsts[0] > firsts[1])


def test_which_sublayer_says_it_first() -> None:
    """By the clock: of branches that run at once, and of one layer, attention is no later."""
    shown = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool).T
    feed_forward = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]], bool).T
    found = Extraction(np.zeros(4, int), shown, feed_forward, shown)
    assert found.later([0, 1, 2]).tolist() == [1, 0]
    assert found.later([0, 1, 1]).tolist() == [0, 0]


def test_11_enrichment_in_a_closed_world() -> None:
    """painter-16's towns are not enriched; with states planted that say their attributes, they are."""
    painter = jaxpaint.load("painter-16", dtype="float32")
    kinds = sorted({kind for _, kind in world.FACTS})
    towns = sorted({town for town, _ in world.FACTS})
    known = painter.tokenizer.convert_tokens_to_ids
    attributes = [[known(world.FACTS[town, kind]) for kind in kinds] for town in towns]
    texts = [language.question(town, kinds[0]) for town in towns]
    run = painter.run(texts)
    positions = [run.positions(town, row)[-1] for row, town in enumerate(towns)]
    found = enrichment(run, positions, attributes)
    assert found.own.shape == (17, 48)
    assert found.answer == "does not hold"

    head = np.asarray(painter.state["lm_head"]["kernel"][...]).T if "lm_head" in painter.state else None
    head = np.asarray(painter.state["embed"]["embedding"][...]) if head is None else head
    plants = [
        Replace(what="state", value=30 * head[own].mean(axis=0), steps=[8], positions=place, rows=[row])
        for row, (own, place) in enumerate(zip(attributes, positions, strict=True))
    ]
    planted = enrichment(painter.run(texts, None, *plants), positions, attributes)
    assert planted.answer == "holds"
    assert planted.difference[0].argmax() >= 8
    np.testing.assert_array_equal(planted.own[:8], found.own[:8])


STORY = "The Lumor is a town of hares; pies, and gold: it has the best PIES of all. Lumor lies at a river by a wood."


def test_words_that_tell_something() -> None:
    assert words_of(STORY) == {"lumor", "town", "hares", "pies", "gold", "best", "lies", "river", "wood"}
    assert words_of("It is of the, and so on: an ox.") == frozenset()


def test_words_of_an_open_vocabulary(monkeypatch) -> None:
    """Against the logit lens sorted by hand, at four places; and planted: states that say the words, and only there."""
    monkeypatch.setattr("jaxpaint.analysis.words.KEPT", 5)
    monkeypatch.setattr("jaxpaint.analysis.enrichment.TOP", 40)
    painter = jaxpaint.load("painter-16", dtype="float32")
    kinds, towns = sorted({kind for _, kind in world.FACTS}), sorted({town for town, _ in world.FACTS})[:6]
    words = [words_of(" ".join(world.FACTS[town, kind] for kind in kinds) + f" {town} what is") for town in towns]
    others = [*words[1:], words[0]]
    run = painter.run([language.question(town, kinds[0]) for town in towns], "0-3 {4-11}*2 12-15")
    positions = [(0, *run.positions(town, row), int(run.lengths[row]) - 1) for row, town in enumerate(towns)]
    found = words_told(run, positions, words, others)
    assert len(found) == 3
    states = np.asarray(run.states)
    for place, each in enumerate(found):
        assert each.own.shape == each.control.shape == (11, 6)
        for state in (0, 4, 10):
            for row in range(6):
                logits = np.asarray(painter.logits_of(states[state, row, positions[row][place]][None, None]))[0, 0]
                said = [painter.tokenizer.decode([int(token)]) for token in np.argsort(-logits, kind="stable")[:40]]
                kept = [word for word in said if tells(word)][:5]
                assert each.own[state, row] == pytest.approx(len(words[row] & {*kept}) / 5)
                assert each.control[state, row] == pytest.approx(len(others[row] & {*kept}) / 5)

    head = np.asarray(painter.state["lm_head"]["kernel"][...]).T if "lm_head" in painter.state else None
    head = np.asarray(painter.state["embed"]["embedding"][...]) if head is None else head
    known = painter.tokenizer.convert_tokens_to_ids
    plants = [
        Replace(what="state", value=30 * head[known(sorted(own))].mean(axis=0), steps=[6], positions=at[1], rows=[row])
        for row, (own, at) in enumerate(zip(words, positions, strict=True))
    ]
    planted = words_told(
        painter.run([language.question(town, kinds[0]) for town in towns], run.plan, *plants), positions, words, others
    )
    assert planted[1].own[6].mean() > 0.7
    np.testing.assert_array_equal(planted[1].own[:6], found[1].own[:6])
    np.testing.assert_array_equal(planted[0].own, found[0].own)


def test_refusals() -> None:
    run = make_tiny("grouped-query").model.run([[1, 2], [3, 4]])
    for attributes in ([[1]], [[1], []], [[1], [2, 3]]):
        with pytest.raises(UserError, match=r"two subjects or more|each of the 2 rows"):
            enrichment(run, [1, 1], attributes)
    with pytest.raises(UserError, match="within the rows"):
        enrichment(run, [1, -1], [[1], [2]])
    with pytest.raises(UserError, match="within the rows"):
        words_told(run, [[1], [2]], [frozenset()] * 2, [frozenset()] * 2)
    with pytest.raises(UserError, match="each of the 2 rows"):
        words_told(run, [[1], [1]], [frozenset()], [frozenset()] * 2)

"""Knockouts of the last token's edges: leaves behind a shared prompt against one run for each, and painter-16's facts.

Numbers are those of the checks of the information-flow sheet.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from jaxpaint.analysis import knockouts
from jaxpaint.analysis.knockouts import EVERYWHERE, Prompt, Window, centred, knock_out
from jaxpaint.base.errors import UserError
from jaxpaint.engine.interventions import Knockout
from jaxpaint.plans.events import events
from jaxpaint.plans.nodes import Layer, Node, Parallel, Repeat, Series
from jaxpaint.plans.plan import Plan
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import NUM_LAYERS, PLANS, VOCAB_SIZE, make_tiny

WINDOWS = (EVERYWHERE, Window("depth", 1, 3), Window("layer", 2, 4), Window("event", 1, 3))


def _prompts(count: int = 8, seed: int = 0) -> list[Prompt]:
    """Of unequal lengths; the subject, the last token itself, and what is neither."""
    drawn, made = random.Random(seed), []
    for _ in range(count):
        length = drawn.randint(4, 9)
        tokens = tuple(drawn.randrange(VOCAB_SIZE) for _ in range(length))
        begin = drawn.randrange(0, length - 2)
        subject = tuple(range(begin, min(begin + 2, length - 1)))
        others = tuple(at for at in range(length - 1) if at not in subject)
        made.append(Prompt(tokens, (subject, (length - 1,), others)))
    return made


def _nested(drawn: random.Random, level: int = 0) -> Node:
    kind = drawn.choice(["layer", "series", "mean", "sum", "repeat"]) if level < 3 else "layer"
    if kind == "layer":
        return Layer(drawn.randrange(NUM_LAYERS))
    if kind == "repeat":
        return Repeat(_nested(drawn, level + 1), drawn.randint(2, 3))
    parts = tuple(_nested(drawn, level + 1) for _ in range(drawn.randint(1, 3)))
    return Series(parts) if kind == "series" else Parallel(parts, kind)  # type: ignore[arg-type]


def _plans() -> list[Plan]:
    drawn = random.Random(7)
    nested = [Plan.of(_nested(drawn), Layer(drawn.randrange(NUM_LAYERS))) for _ in range(14)]
    return [*PLANS[:10], *(plan for plan in nested if plan.cost <= 20)]


@pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
@pytest.mark.slow
def test_1_leaves_are_runs_of_their_own(variation: str) -> None:
    model, prompts = make_tiny(variation).model, _prompts()
    plans = _plans() if variation == "grouped-query" else PLANS[1:10:4]
    assert len(plans) >= (20 if variation == "grouped-query" else 3)
    rows, ends = np.arange(len(prompts)), np.array([len(prompt.tokens) - 1 for prompt in prompts])
    for plan, found in zip(plans, knock_out(model, prompts, plans, WINDOWS), strict=True):
        for leaf in range(1 + len(WINDOWS) * 3):
            window, key = divmod(leaf - 1, 3)
            changes = []
            if leaf and any(_chosen(WINDOWS[window], event) for event in events(plan)):
                where = _where(WINDOWS[window])
                keys = [prompt.sets[key] for prompt in prompts]
                changes = [Knockout(queries=-1, keys=own, rows=[row], **where) for row, own in enumerate(keys)]
            logits = np.asarray(model.run([prompt.tokens for prompt in prompts], plan, *changes).logits)[rows, ends]
            tolerance = 1e-5 * max(1, np.abs(logits).max())
            np.testing.assert_allclose(found.logit[:, leaf], logits[rows, found.token], rtol=0, atol=tolerance)
            np.testing.assert_array_equal(found.best[:, leaf], logits.argmax(axis=-1))


def _chosen(window: Window, event) -> bool:
    own = event.number if window.axis == "event" else getattr(event, window.axis)
    return window.start <= own < window.stop


def _where(window: Window) -> dict:
    if window is EVERYWHERE:
        return {}
    return {f"{window.axis}s": range(window.start, window.stop)}


def test_2_without_a_knockout_nothing_changes() -> None:
    """A leaf whose window has no event: to float32's rounding, which other rows of one product may have other."""
    model = make_tiny("grouped-query").model
    for found in knock_out(model, _prompts(), _plans(), [Window("depth", 90, 99), EVERYWHERE]):
        tolerance = 1e-5 * max(1, np.abs(found.logit).max())
        np.testing.assert_allclose(found.logit_change[:, 0], 0, rtol=0, atol=tolerance)
        assert np.abs(found.logit_change[:, 1, 0]).max() > 1e-3


@pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
@pytest.mark.slow
def test_2_without_a_knockout_it_is_the_ordinary_run(variation: str) -> None:
    """`Model.logits`' own executable, of another layout: equal as by check 1, not to the bit."""
    model, prompts = make_tiny(variation).model, _prompts()
    rows, lengths = np.arange(len(prompts)), np.array([len(prompt.tokens) for prompt in prompts])
    tokens = np.zeros((len(prompts), lengths.max()), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : lengths[row]] = prompt.tokens
    plans = _plans()
    for plan, found in zip(plans, knock_out(model, prompts, plans, [EVERYWHERE]), strict=True):
        logits = np.asarray(model.logits(tokens, plan, lengths))[rows, lengths - 1]
        tolerance = 1e-5 * max(1, np.abs(logits).max())
        np.testing.assert_allclose(found.logit[:, 0], logits[rows, found.token], rtol=0, atol=tolerance)
        np.testing.assert_array_equal(found.token, logits.argmax(axis=-1))


def test_3_one_executable_serves_plans_windows_and_key_sets() -> None:
    model, count = make_tiny("grouped-query").model, knockouts._advance.executables
    longest = Prompt((1,) * 9, ((0,), (1,), (8,)))
    knock_out(model, [*_prompts(7), longest], ["0-4", "0 {1-3} 4", "0 {(1 {2 3}) 2} 4"], WINDOWS)
    before = count()
    for seed, windows in ((1, centred("layer", 2, 4)), (2, centred("depth", 4, 4))):
        knock_out(model, [*_prompts(7, seed), longest], ["4-0", "0 {2 4}*3", "1 sum{(1 2) 3} 0"], windows)
    assert count() == before


def test_6_windows_of_steps_and_of_layers() -> None:
    """In order they are one thing; where layers run again or at once they are two."""
    model, prompts = make_tiny("grouped-query").model, _prompts()
    windows = [*centred("depth", 3, 5), *centred("layer", 3, 5)]
    full, repeated = knock_out(model, prompts, ["0-4", "0 (1 2)*2 3 4"], windows)
    # In per cent, where a logit's rounding of 1e-5 is 1e-3.
    np.testing.assert_allclose(full.change[:, :5], full.change[:, 5:], rtol=0, atol=1e-3)
    assert np.abs(repeated.change[:, :5] - repeated.change[:, 5:]).max() > 1


def test_7_windows_are_the_notebooks() -> None:
    of_nine, of_ten = centred("layer", 9, 48), centred("layer", 10, 48)
    spans = [(of_nine[at].start, of_nine[at].stop - 1) for at in (0, 24, 47)]
    assert spans == [(0, 4), (20, 28), (43, 47)]
    assert (of_ten[24].start, of_ten[24].stop - 1) == (19, 28)


def test_batches_change_nothing() -> None:
    model, prompts = make_tiny("neox").model, _prompts()
    (whole,) = knock_out(model, prompts, ["0 {1-3}*2 4"], WINDOWS)
    (parts,) = knock_out(model, prompts, ["0 {1-3}*2 4"], WINDOWS, batch_tokens=60)
    np.testing.assert_array_equal(parts.token, whole.token)
    np.testing.assert_allclose(parts.logprob, whole.logprob, rtol=1e-5, atol=1e-5)


def test_another_token_that_is_given() -> None:
    model, prompts = make_tiny("grouped-query").model, _prompts()
    (found,) = knock_out(model, prompts, ["0-4"], WINDOWS, given=[5] * 8)
    logits = np.asarray(model.run([prompt.tokens for prompt in prompts]).logits)
    ends = [len(prompt.tokens) - 1 for prompt in prompts]
    last = logits[np.arange(8), ends]
    expected = last[:, 5] - np.log(np.exp(last).sum(axis=-1))
    np.testing.assert_allclose(found.given_logprob[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(found.base, np.exp(last.max(axis=-1)) / np.exp(last).sum(axis=-1), rtol=1e-4)


def test_refusals() -> None:
    model, prompt = make_tiny("grouped-query").model, _prompts(1)[0]
    for prompts, windows, named in (
        ([], WINDOWS, "no text"),
        ([Prompt((1,), ((0,),))], WINDOWS, "one token"),
        ([Prompt((1, 2), ((2,),))], WINDOWS, r"positions \[2\]"),
        ([prompt, Prompt((1, 2), ((0,),))], WINDOWS, "1 key sets, the first one 3"),
        ([prompt], (), "no window"),
        ([Prompt((1, 2), ((0,), ()))], WINDOWS, "without positions"),
        ([Prompt((1, 99), ((0,),))], WINDOWS, "vocabulary"),
    ):
        with pytest.raises(UserError, match=named):
            knock_out(model, prompts, ["0-4"], windows)
    with pytest.raises(UserError, match="encoder"):
        knock_out(tiny_bert(), [prompt], ["0-4"], WINDOWS)

"""LongRoPE on both sides of its original context, mixed, against transformers on each text alone (a batch of one)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jaxpaint.analysis.knockouts import EVERYWHERE, knock_out
from jaxpaint.analysis.knockouts import Prompt as KnockoutPrompt
from jaxpaint.base.errors import UserError
from jaxpaint.engine import grouping
from jaxpaint.engine.packing import Request, pack
from jaxpaint.engine.score import score, sweep
from jaxpaint.generation import Prompt, generate
from jaxpaint.generation.border import beyond, parts
from jaxpaint.generation.settings import NONE
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.scalings import LongropeScaling
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import SIZES, VOCAB_SIZE, Tiny, tiny_like

ORIGINAL, LONGEST = 32, 60
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 300.0,
    "short_factor": [1.0, 1.1, 1.7, 2.5],
    "long_factor": [1.0, 3.0, 8.0, 20.0],
}
SERIES = [Plan.parse(text) for text in ("0-4", "4-0", "0 (1 2)*2 4")]
GROUPS = Plan.parse("0 {1-3}*2 4")
LENGTHS = np.array([20, 33, LONGEST, 32])


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    # A window that long texts alone are beyond.
    more = {"original_max_position_embeddings": ORIGINAL, "sliding_window": 40, "pad_token_id": 0}
    return tiny_like("phi3", **SIZES, **more, rope_parameters=dict(ROPE))


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    """Rows that begin alike, two and two, across the border."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (len(LENGTHS), LONGEST))
    tokens[1, :18], tokens[3, :30] = tokens[0, :18], tokens[2, :30]
    return tokens


def _close(ours: Any, theirs: Any) -> None:
    assert np.asarray(theirs).std() > 0.3, "logits this flat would not show a difference"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_texts_of_both_kinds_in_one_batch(tiny: Tiny, texts: np.ndarray) -> None:
    for plan in SERIES:
        found = np.asarray(tiny.model.logits(texts, plan, LENGTHS))
        for row, length in enumerate(LENGTHS):
            theirs = tiny.torch_logits(texts[row : row + 1, :length], layers=plan.sequence())[0]
            _close(found[row, :length], theirs)
    # The factors matter: a text's beginning is another one within the border.
    shorter = np.asarray(tiny.model.logits(texts[:, :ORIGINAL]))
    whole = np.asarray(tiny.model.logits(texts, None, LENGTHS))
    assert np.abs(shorter[2] - whole[2, :ORIGINAL]).max() > 1e-2 * np.abs(shorter[2]).max()
    with pytest.raises(UserError, match="65 positions are more than the model's 64"):
        tiny.model.logits(np.zeros((1, 65), int))


@pytest.mark.slow
def test_states_are_those_of_transformers(tiny: Tiny, texts: np.ndarray) -> None:
    found = np.asarray(tiny.model.hidden_states(texts, None, LENGTHS))
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            theirs = tiny.torch(torch.tensor(texts[row : row + 1, :length]), output_hidden_states=True).hidden_states
        _close(found[:-1, row, :length], np.stack([state[0].numpy() for state in theirs[:-1]]))


@pytest.mark.few(1)
@pytest.mark.parametrize("rows", ["of one stream", "whole", "block by block"])
def test_scores_of_requests_that_begin_alike(
    tiny: Tiny, texts: np.ndarray, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees with leaves on both sides of the border come apart; all of them lie in one batch."""
    requests = []
    for row, length in enumerate(LENGTHS):
        *text, first, second = texts[row, : length - 1].tolist()
        requests += [Request((*text, first, second, last), (first, second, last)) for last in (5, 7)]
    monkeypatch.setattr(grouping, "BLOCKWISE_COST", 0.0)  # so that it is taken where it may be
    how = {"whole_rows": rows == "whole", "blockwise": rows == "block by block"}
    (batch,) = pack(requests, batch_tokens=1024, attention_cost=1e-4, border=float(ORIGINAL), **how)
    assert (batch.lookback is None) == (rows == "block by block")
    assert batch.real_tokens < sum(len(each.tokens) for each in requests)  # pairs of a length share a tree
    found = {}
    for scores in sweep(tiny.model, [batch], SERIES):
        found.update(dict.fromkeys(scores.plans, scores.loglikelihoods))
    for number, plan in enumerate(SERIES):
        for index, request in enumerate(requests):
            logits = torch.tensor(tiny.torch_logits(np.array([request.tokens]), layers=plan.sequence())[0])
            logprobs = logits.log_softmax(-1)[-3:]
            expected = sum(float(logprobs[at, target]) for at, target in enumerate(request.targets))
            assert found[number][index] == pytest.approx(expected, abs=3e-5)


@pytest.mark.slow
def test_a_group_scores_as_each_text_alone(tiny: Tiny, texts: np.ndarray) -> None:
    requests = [Request(tuple(texts[row, :length].tolist()), (3,)) for row, length in enumerate(LENGTHS)]
    together = score(tiny.model, requests, GROUPS).loglikelihoods
    logits = np.asarray(tiny.model.logits(texts, GROUPS, LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = np.asarray(tiny.model.logits(texts[row : row + 1, :length], GROUPS))[0]
        _close(logits[row, :length], alone)
        assert together[row] == pytest.approx(float(torch.tensor(alone[-1]).log_softmax(-1)[3]), abs=1e-5)


@pytest.mark.slow
def test_knockouts_read_a_long_text_as_one(tiny: Tiny, texts: np.ndarray) -> None:
    prompts = [KnockoutPrompt(tuple(texts[row, :length].tolist()), ((0,),)) for row, length in enumerate(LENGTHS)]
    (found,) = knock_out(tiny.model, prompts, [Plan.parse("0-4")], [EVERYWHERE])
    for row, length in enumerate(LENGTHS):
        theirs = torch.tensor(tiny.torch_logits(texts[row : row + 1, :length])[0, -1]).log_softmax(-1)
        assert found.token[row] == theirs.argmax()
        assert found.logprob[row, 0] == pytest.approx(float(theirs.max()), abs=1e-5)


@pytest.mark.slow
def test_what_is_written_within_beyond_and_across(tiny: Tiny) -> None:
    """Across the border transformers' Phi-3 reads the text anew, by the long factors."""
    draw = np.random.default_rng(1)
    of = ((20, 8), (32, 1), (33, 8), (28, 8), (32, 3))
    prompts = [Prompt(tuple(draw.integers(0, VOCAB_SIZE, length).tolist()), new) for length, new in of]
    plans = [tiny.model.full_plan, Plan.parse("0 2 1 4")]
    found = {(each.plan, each.prompt): each for each in generate(tiny.model, prompts, plans, room=8)}
    assert len(found) == len(prompts) * len(plans)
    for (plan, number), text in found.items():
        prompt = torch.tensor([prompts[number].tokens])
        assert (text.ending, len(text.tokens)) == ("length", prompts[number].max_new_tokens)
        if plan == 0:
            greedy = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": len(text.tokens)}
            theirs = tiny.torch.generate(prompt, attention_mask=torch.ones_like(prompt), **greedy)
            assert text.tokens == tuple(theirs[0, prompt.shape[1] :].tolist())
        else:
            whole = np.array([[*prompts[number].tokens, *text.tokens[:-1]]])
            last = tiny.torch_logits(whole, layers=plans[plan].sequence())[0, -1]
            assert text.tokens[-1] == last.argmax()


def test_what_is_read_once_is_not_read_again(tiny: Tiny) -> None:
    model = replace(tiny.model)
    vars(model).update(manifest={"tokenizer": {"tokenizer.json": ""}}, tokenizer=object())
    prompts = [Prompt((1,) * length, 8) for length in (20, 30, 33)]
    turned = [part.model for part in parts(model, prompts, NONE)]
    turned.append(beyond(model, prompts, NONE, {1: (1, 2, 3)}).model)
    assert len(turned) == 4
    for each in turned:
        assert each.tokenizer is model.tokenizer
        assert each.layers is model.layers


def test_a_mean_cache_does_not_cross(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"30 tokens and 8 new ones cross the 32 .* ask for 3 new"):
        generate(tiny.model, [Prompt((1,) * 30, 8)], [GROUPS], kv="mean")


def test_a_store_of_short_factors_alone_reads_as_before(tiny: Tiny) -> None:
    values = tiny.model.config.to_dict()
    older = {name: values["rope_scaling"][name] for name in ("short_factor", "attention_factor", "rope_type")}
    config: Any = from_dict({**values, "rope_scaling": older, "max_position_embeddings": ORIGINAL})
    assert config.rope_scaling == LongropeScaling(tuple(ROPE["short_factor"]), older["attention_factor"])
    within: Any = from_huggingface({**tiny.raw_config, "max_position_embeddings": ORIGINAL})
    assert within.rope_scaling.long_factor is None


def test_long_factors_that_cannot_be(tiny: Tiny) -> None:
    raw = tiny.raw_config
    for factors, told in ((1.0, "long_factor=1.0"), ([1.0] * 3, "3 long factors for the 4 frequencies")):
        with pytest.raises(ConfigError, match=told):
            from_huggingface({**raw, "rope_parameters": {**raw["rope_parameters"], "long_factor": factors}})

"""Masked scoring against transformers, one masked text at a time, its layer list rearranged."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.engine.masked import score_masked
from jaxpaint.plans.plan import Plan
from tests.helpers.bert_models import VOCAB_SIZE, tiny_bert, torch_bert, torch_outputs
from tests.helpers.decoders import make_tiny

MASK, CLS, SEP = 4, 2, 3
SPECIAL = (CLS, SEP)
PLANS = [Plan.parse(text) for text in ("0-4", "0 4", "0 3-1 4", "0-4", "0 1*3 4")]


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [[CLS, *random.integers(5, VOCAB_SIZE, length).tolist(), SEP] for length in (3, 20, 1, 36, 9)]


def _one_by_one(text: list[int], plan: Plan) -> tuple[float, int]:
    total, found = 0.0, 0
    for place, token in enumerate(text):
        if token in SPECIAL:
            continue
        masked = np.array([[MASK if i == place else other for i, other in enumerate(text)]])
        layers = plan.sequence()
        logits = torch_outputs(torch_bert(), masked, [len(text)], np.zeros_like(masked), layers)[0][0, place]
        logits = logits.astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        found += int(logits.argmax() == token)
    return total, found


def test_scores_equal_transformers(texts: list[list[int]]) -> None:
    scores = score_masked(tiny_bert(), texts, PLANS, mask_token=MASK, special_tokens=SPECIAL, batch_tokens=256)
    assert len(scores) == len(PLANS)
    for plan, ours in zip(PLANS, scores, strict=True):
        expected = [_one_by_one(text, plan) for text in texts]
        np.testing.assert_allclose(ours.pseudo_loglikelihoods, [total for total, _ in expected], rtol=1e-4)
        assert ours.found.tolist() == [found for _, found in expected]
        assert ours.masked.tolist() == [3, 20, 1, 36, 9]
        assert ours.accuracy == ours.found.sum() / 69
    assert len({scores[i].pseudo_loglikelihoods[0] for i in (0, 1, 2, 4)}) == 4


@pytest.mark.slow
def test_any_batch_size_gives_the_same(texts: list[list[int]]) -> None:
    plans = [Plan.parse("0 {1-3}*2 4"), tiny_bert().full_plan]
    one, other = (
        score_masked(tiny_bert(), texts, plans, mask_token=MASK, special_tokens=SPECIAL, batch_tokens=tokens)
        for tokens in (40, 4096)
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first.pseudo_loglikelihoods, second.pseudo_loglikelihoods, rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([], "no text"),
        ([[5], []], "text 2 of 2"),
        ([[5], [CLS, SEP]], "text 2 of 2 holds special tokens alone"),
        ([[VOCAB_SIZE]], str(VOCAB_SIZE)),
        ([[5] * 41], "41 tokens"),
    ],
)
def test_texts_that_cannot_be_scored(texts: list[list[int]], named: str) -> None:
    with pytest.raises(UserError, match=named):
        score_masked(tiny_bert(), texts, PLANS, mask_token=MASK, special_tokens=SPECIAL)


def test_a_decoder_has_no_masked_lm_head() -> None:
    model = make_tiny("grouped-query").model
    with pytest.raises(UserError, match="no masked-LM head"):
        score_masked(model, [[1, 2]], [model.full_plan], mask_token=MASK)


def test_one_plan_that_is_not_finite_leaves_the_others_alone(texts: list[list[int]]) -> None:
    model = tiny_bert()
    state = jax.tree.map(lambda leaf: leaf, model.state)
    kernel = state["blocks"]["mlp"]["output"]["kernel"]
    kernel[...] = kernel[...].at[2].set(np.nan)
    broken = dataclasses.replace(model, state=state)
    bad, good = score_masked(broken, texts[:1], [model.full_plan, Plan.parse("0 1 3 4")], mask_token=MASK)
    assert np.isnan(bad.pseudo_loglikelihoods).all()
    assert np.isfinite(good.pseudo_loglikelihoods).all()

"""Scores of every token: those of plain forward passes, and of `score`, however texts are packed."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxpaint.engine.packing import Request, pack
from jaxpaint.engine.score import score_plans
from jaxpaint.engine.token_scores import in_few_shapes, token_scores
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import VOCAB_SIZE, Tiny

PLANS = [Plan.parse(text) for text in ("0-4", "0 {1-3} 4", "0 2*3 4")]


def random_texts(count: int, longest: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Some of them begin alike, one is a single token."""
    draw = np.random.default_rng(seed)
    trunk = draw.integers(0, VOCAB_SIZE, 5).tolist()
    lengths = [1, *draw.integers(2, longest - 5, count - 1)]
    return [
        (*(trunk if index % 2 else []), *draw.integers(0, VOCAB_SIZE, length).tolist())
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("tiny", ["grouped-query", "sliding window"], indirect=True)
@pytest.mark.slow
def test_they_are_those_of_plain_forward_passes(tiny: Tiny) -> None:
    texts = random_texts(9, 40)
    for plan, of_plan in zip(PLANS, token_scores(tiny.model, texts, PLANS, best=3), strict=True):
        for text, found in zip(texts, of_plan, strict=True):
            expected = np.asarray(jax.nn.log_softmax(tiny.model.logits(np.array([text]), plan)[0]))
            own = expected[np.arange(len(text) - 1), text[1:]]
            np.testing.assert_allclose(found.logprobs, own, atol=2e-5)
            assert found.is_greedy.tolist() == (own == expected[:-1].max(axis=-1)).tolist()
            assert found.best.tolist() == np.argsort(-expected, axis=-1)[:, :3].tolist()
            np.testing.assert_allclose(found.best_logprobs, -np.sort(-expected, axis=-1)[:, :3], atol=2e-5)


@pytest.mark.parametrize("tiny", ["grouped-query"], indirect=True)
def test_they_add_up_to_those_of_requests(tiny: Tiny) -> None:
    texts = [text for text in random_texts(7, 30, seed=1) if len(text) > 3]
    requests = [Request.of(text[:2], text[2:], 64) for text in texts]
    expected = score_plans(tiny.model, requests, PLANS)
    for plan, of_plan in enumerate(token_scores(tiny.model, texts, PLANS)):
        np.testing.assert_allclose(
            [found.logprobs[1:].sum() for found in of_plan], expected.loglikelihoods[plan], atol=1e-4
        )
        assert [bool(found.is_greedy[1:].all()) for found in of_plan] == expected.is_greedy[plan].tolist()


def test_shapes_are_few() -> None:
    """Of many requests of whatever lengths, beside those that packing alone makes."""
    packed, shapes = set(), set()
    for seed in range(60):
        texts = random_texts(2 + seed % 9, 60, seed)
        requests = [Request(text, (*text[1:], 0)) for text in texts]
        for batch in pack(requests, batch_tokens=512, attention_cost=0.05):
            packed.add((batch.tokens.shape, batch.lookback, batch.scored.shape))
            few = in_few_shapes(batch)
            assert few.lookback is None or few.lookback < len(few.tokens)
            assert few.tokens.size <= 1.5 * batch.tokens.size
            shapes.add((few.tokens.shape, few.lookback, few.scored.shape))
    assert len(shapes) < 0.7 * len(packed), (len(shapes), len(packed))

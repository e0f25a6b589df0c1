"""Pooled features of pairs under many plans equal transformers', example by example."""

from __future__ import annotations

import numpy as np
import pytest
from bert_models import NUM_LAYERS, VOCAB_SIZE, tiny_bert, torch_bert, torch_outputs

from jaxpaint.errors import UserError
from jaxpaint.glue.features import Encoded, pooled_features
from jaxpaint.plan import Plan

PLANS = [Plan.parse(text) for text in ("0-4", "0 4", "0 3-1 4", "0-4", "0 2*3 4")]


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    random = np.random.default_rng(0)
    lengths = (3, 20, 9, 36, 8, 5, 33, 17)
    tokens = tuple(random.integers(0, VOCAB_SIZE, length).astype(np.int32) for length in lengths)
    return Encoded(tokens, tuple((np.arange(length) > length // 2).astype(np.int32) for length in lengths))


def test_equal_transformers(encoded: Encoded) -> None:
    done: list[int] = []
    found = pooled_features(tiny_bert(), encoded, PLANS, batch_tokens=96, progress=done.append)
    assert found.shape == (len(PLANS), len(encoded), 32)
    assert found.dtype == np.float32
    assert sum(done) == len(encoded)
    assert len(done) > 2
    for example, (tokens, types) in enumerate(zip(encoded.tokens, encoded.token_types, strict=True)):
        for plan, ours in zip(PLANS, found[:, example], strict=True):
            theirs = torch_outputs(torch_bert(), tokens[None], [len(tokens)], types[None], plan.sequence())[1][0]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_groups_equal_the_plan_alone(encoded: Encoded) -> None:
    plans = [Plan.parse("0 {1-3}*2 4"), Plan.parse("0 {(1 2) 3} 4")]
    found = pooled_features(tiny_bert(), encoded, [*plans, *PLANS])
    for plan, ours in zip(plans, found, strict=False):
        for example in (1, 3):
            tokens, types = encoded.tokens[example][None], encoded.token_types[example][None]
            alone = tiny_bert().pooled(tokens, plan, token_types=types)[0]
            np.testing.assert_allclose(ours[example], alone, rtol=1e-4, atol=1e-5)


def test_a_plan_that_does_not_fit(encoded: Encoded) -> None:
    with pytest.raises(UserError, match=f"{NUM_LAYERS} layers"):
        pooled_features(tiny_bert(), encoded, [Plan.parse("0-7")])

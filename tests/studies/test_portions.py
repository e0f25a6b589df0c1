"""What a study has yet to compute, in batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import pack_for
from jaxpaint.studies.scoring import Portion, portions, regrouped
from tests.helpers.decoders import VOCAB_SIZE, make_tiny

PLANS = 3
BATCH_TOKENS = 128


def make_requests() -> list[Request]:
    """Eighty requests, of which some begin alike."""
    generator = np.random.default_rng(0)
    texts = [tuple(generator.integers(0, VOCAB_SIZE, generator.integers(5, 30)).tolist()) for _ in range(20)]
    return [Request((*text, number), (number, 1)) for text in texts for number in range(4)]


REQUESTS = make_requests()


@pytest.fixture(scope="module")
def model():
    return make_tiny("grouped-query").model


def covered(found: list[Portion]) -> np.ndarray:
    """How often each plan and request is computed."""
    times = np.zeros((PLANS, len(REQUESTS)), int)
    for portion in found:
        times[np.ix_(portion.plans, portion.requests)] += 1
        assert len(portion.batch.requests) == len(portion.requests)
    return times


def test_all_is_missing_at_first(model):
    found = portions(model, REQUESTS, np.ones((PLANS, len(REQUESTS)), bool), BATCH_TOKENS)
    assert (covered(found) == 1).all()
    whole = pack_for(model, REQUESTS, BATCH_TOKENS)
    assert len(found) == len(whole) > 3
    for portion, batch in zip(found, whole, strict=True):
        np.testing.assert_array_equal(portion.batch.tokens, batch.tokens)


def test_what_is_left_has_the_same_batches(model):
    missing = np.ones((PLANS, len(REQUESTS)), bool)
    whole = portions(model, REQUESTS, missing, BATCH_TOKENS)
    missing[:, whole[0].requests] = False
    missing[:2, whole[1].requests] = False
    left = portions(model, REQUESTS, missing, BATCH_TOKENS)
    assert (covered(left) == missing).all()
    assert [portion.plans.tolist() for portion in left] == [[2]] + [[0, 1, 2]] * (len(whole) - 2)
    for portion, before in zip(left, whole[1:], strict=True):
        np.testing.assert_array_equal(portion.batch.tokens, before.batch.tokens)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2**PLANS - 1), min_size=len(REQUESTS), max_size=len(REQUESTS)))
def test_exactly_what_is_missing_is_computed(patterns):
    """Each request's pattern, as a number, says which plans miss it."""
    model = make_tiny("grouped-query").model
    missing = (np.array(patterns) >> np.arange(PLANS)[:, None]) % 2 == 1
    assert (covered(portions(model, REQUESTS, missing, BATCH_TOKENS)) == missing).all()
    chosen = np.arange(0, len(REQUESTS), 3)
    expected = np.zeros_like(missing)
    expected[:, chosen] = missing[:, chosen]
    assert (covered(regrouped(model, REQUESTS, chosen, missing, BATCH_TOKENS)) == expected).all()


def test_batches_hold_the_requests_they_name(model):
    missing = np.ones((PLANS, len(REQUESTS)), bool)
    missing[0, ::3] = False
    for portion in portions(model, REQUESTS, missing, BATCH_TOKENS):
        for own, request in zip(portion.batch.requests, portion.requests, strict=True):
            targets = portion.batch.targets.reshape(-1)[portion.batch.slots[portion.batch.request_ids == own]]
            assert sorted(targets.tolist()) == sorted(REQUESTS[request].targets)


def test_nothing_missing(model):
    assert portions(model, REQUESTS, np.zeros((PLANS, len(REQUESTS)), bool), BATCH_TOKENS) == []

"""Standard errors over texts: the textbook's formulas, whatever the batches; numpy over texts analysed one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxpaint.analysis.states import analyse
from jaxpaint.analysis.sums import MEAN, added
from tests.helpers.decoders import LONGEST, PLANS, VOCAB_SIZE, make_tiny

NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)


def estimated(values: np.ndarray, weights: np.ndarray, cut: int = 0):
    parts = [part for part in (slice(None, cut), slice(cut, None)) if values[part].size]
    sums = None
    for part in parts:
        sums = added(sums, MEAN.sums(values[part], weights[part]))
    assert sums is not None
    return MEAN.estimate(sums)


@given(arrays(np.float64, st.integers(2, 12), elements=NUMBERS), st.integers(0, 12))
def test_a_mean_has_its_standard_error_whatever_the_batches(values, cut):
    found = estimated(values, np.ones(len(values)), cut)
    scale = 1 + np.abs(values).max()
    assert abs(found.value - values.mean()) <= 1e-12 * scale
    assert abs(found.stderr - values.std(ddof=1) / np.sqrt(len(values))) <= 1e-6 * scale


@given(st.data())
def test_a_ratio_has_that_of_its_residuals(data):
    count = data.draw(st.integers(2, 12))
    values = data.draw(arrays(np.float64, count, elements=NUMBERS))
    weights = data.draw(arrays(np.float64, count, elements=st.integers(1, 50).map(float)))
    found = estimated(values, weights, data.draw(st.integers(0, count)))
    ratio = values.sum() / weights.sum()
    residuals = values - ratio * weights
    wanted = np.sqrt(np.square(residuals).sum() * count / (count - 1)) / weights.sum()
    assert abs(found.stderr - wanted) <= 1e-6 * (1 + np.abs(values).max() + abs(ratio) * weights.max())


def test_texts_of_no_weight_do_not_count():
    values, weights = np.array([1.0, 0.0, 3.0, 0.0]), np.array([2.0, 0.0, 2.0, 0.0])
    np.testing.assert_allclose(estimated(values, weights), estimated(values[::2], weights[::2]))


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    draw = np.random.default_rng(3)
    return [draw.integers(0, VOCAB_SIZE, length).tolist() for length in (7, LONGEST, 2, 9, 15)]


@pytest.mark.slow
def test_every_probe_has_that_of_its_texts(texts):
    model = make_tiny("grouped-query").model
    alone = [analyse(model, [text], PLANS) for text in texts]
    lengths = np.array([len(text) for text in texts])
    for number, found in enumerate(analyse(model, texts, PLANS)):
        for name in ("similarity", "variance", "angular_distance", "block_influence"):
            each = np.stack([getattr(analyses[number], name) for analyses in alone])
            weights = lengths / lengths.mean() if name == "block_influence" else np.ones(len(texts))
            residuals = (each - getattr(found, name)) * weights.reshape(-1, *[1] * (each.ndim - 1))
            wanted = np.sqrt(np.square(residuals).sum(axis=0) / (len(texts) - 1) / len(texts))
            scale = np.abs(each).max()
            assert np.abs(getattr(found, f"{name}_stderr") - wanted).max() <= 2e-6 * scale, name
            if name == "similarity":
                assert (np.diag(found.similarity_stderr) == 0).all()


def test_one_text_has_no_standard_error(texts):
    (found,) = analyse(make_tiny("grouped-query").model, texts[:1], PLANS[:1])
    assert np.isnan(found.variance_stderr).all()
    assert np.isnan(found.similarity_stderr).all()

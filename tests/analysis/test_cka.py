"""Linear CKA: its identities, the estimator written out in numpy, and its jackknife."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.analysis.cka import CKA
from jaxpaint.analysis.states import analyse
from jaxpaint.analysis.sums import added
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import LONGEST, VOCAB_SIZE, make_tiny

LENGTHS = np.array([5, 9, 4, 3])  # the last says nothing


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased HSIC of samples [n, D] as Song et al. write it (equation 5), in float64."""
    n = len(x)
    k, m = (each.astype(np.float64) @ each.astype(np.float64).T for each in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    second = (one @ k @ one) * (one @ m @ one) / (n - 1) / (n - 2)
    return (np.trace(k @ m) + second - 2 / (n - 2) * (one @ k @ m @ one)) / n / (n - 3)


def cka(states: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of states [states, texts, S, D]."""
    found = np.zeros((len(states), len(states)))
    for i, x in enumerate(states):
        for j, y in enumerate(states):
            found[i, j] = sum(hsic(x[t, :n], y[t, :n]) for t, n in enumerate(lengths) if n >= 4)
    return found / np.sqrt(np.outer(np.diag(found), np.diag(found)))


def ours(*states: np.ndarray, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    values = np.array([[CKA.measure(jnp.asarray(x), jnp.asarray(y), lengths) for y in states] for x in states])
    return CKA.reduction.estimate(CKA.reduction.sums(values.astype(np.float64), np.ones(len(lengths)))).value


def random_states(seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(len(LENGTHS), 9, 6)).astype(np.float32)
    return np.where((np.arange(9) < LENGTHS[:, None])[..., None], x, 0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-20, 20))
@pytest.mark.slow
def test_it_is_1_with_itself_and_does_not_see_rotation_scale_or_shift(seed, scale, shift):
    x = random_states(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0].astype(np.float32)
    moved = np.where((np.arange(9) < LENGTHS[:, None])[..., None], x @ rotation * scale + shift, 0).astype(np.float32)
    y = random_states(seed + 1)
    found = ours(x, moved, y)
    assert np.abs(np.diag(found) - 1).max() <= 1e-6
    # A shift of 20 beside a scale of 0.01 leaves float32 four digits.
    tolerance = 1e-4 + 1e-6 * (shift / scale) ** 2
    assert abs(found[0, 1] - 1) <= tolerance
    assert abs(found[0, 2] - found[1, 2]) <= tolerance * max(1, abs(found[0, 2]))


@pytest.mark.slow
def test_every_plan_equals_the_estimator_written_out():
    draw = np.random.default_rng(5)
    texts = [draw.integers(0, VOCAB_SIZE, length).tolist() for length in (7, LONGEST, 3, 9, 15)]
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    model = make_tiny("grouped-query").model
    plans = [Plan.parse(text) for text in ("0-4", "4-0", "0 {1-3} 4", "0 (1 2)*5 4")]
    together = analyse(model, texts, plans, probes=[CKA])
    in_parts = analyse(model, texts, plans, probes=[CKA], batch_tokens=32)
    for plan, found, apart in zip(plans, together, in_parts, strict=True):
        wanted = cka(np.asarray(model.hidden_states(tokens, plan, lengths)), lengths)
        assert np.abs(found.cka - wanted).max() <= 1e-5
        assert np.abs(apart.cka - found.cka).max() <= 1e-5
        assert np.abs(apart.cka_stderr - found.cka_stderr).max() <= 1e-5
        assert (np.diag(found.cka) == 1).all()
        assert (np.diag(found.cka_stderr) == 0).all()


def test_its_standard_error_is_the_jackknifes():
    draw = np.random.default_rng(6)
    own = 1 + draw.random((2, 200))
    values = np.stack([np.stack([own[0], 0.6 + 0.3 * draw.random(200)]), np.stack([np.zeros(200), own[1]])])
    values[1, 0] = values[0, 1]
    sums = None
    for part in (slice(0, 90), slice(90, 200)):
        sums = added(sums, CKA.reduction.sums(values[..., part], np.ones(len(range(200)[part]))))
    assert sums is not None
    found = CKA.reduction.estimate(sums)
    left_out = values.sum(axis=-1, keepdims=True) - values
    each = left_out[0, 1] / np.sqrt(left_out[0, 0] * left_out[1, 1])
    jackknife = np.sqrt((len(each) - 1) / len(each) * np.square(each - each.mean()).sum())
    np.testing.assert_allclose(found.stderr[0, 1], jackknife, rtol=2e-2)

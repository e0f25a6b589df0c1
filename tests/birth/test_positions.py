"""Check 5 for the other positions: sines and cosines, and rotary ones in layer 0 alone, under plans."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.birth.arms import Arm
from jaxpaint.birth.data import DataSettings, sample, source_of
from jaxpaint.birth.model import SmallModel, attention_patterns, sinusoids
from jaxpaint.birth.train import Training, train
from jaxpaint.engine.events import events_of
from jaxpaint.plans.plan import Plan

POSITIONS = ("random", "sinusoidal", "rotary")
WIDTH, LENGTH = 64, 48
TOKENS = np.asarray(sample(source_of(DataSettings()), jax.random.key(1), 4, LENGTH).tokens)


def turned(x: np.ndarray) -> np.ndarray:
    """Pairs (i, i + D / 2) as complex numbers, position t's times exp(i t / 10000^(2 i / D))."""
    half = WIDTH // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * np.arange(LENGTH)[:, None] * 10_000.0 ** (-2 * np.arange(half) / WIDTH))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


class Plain:
    """The sheet's formulas in float64, a plan spelled out."""

    def __init__(self, model: SmallModel, parameters: dict):
        self.p, self.rotary = jax.tree.map(lambda leaf: np.array(leaf, np.float64), parameters), model.positions

    def embed(self) -> np.ndarray:
        x = self.p["tokens"][TOKENS]
        return x if self.rotary == "rotary" else x + self.p["positions"]

    def attention(self, layer: int, x: np.ndarray) -> np.ndarray:
        queries, keys = x, x @ self.p["layers"]["key"][layer].T
        if self.rotary == "rotary" and layer == 0:
            queries, keys = turned(queries), turned(keys)
        scores = queries @ keys.swapaxes(1, 2) / np.sqrt(WIDTH)
        scores[:, ~np.tril(np.ones((LENGTH, LENGTH), bool))] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def update(self, layer: int, x: np.ndarray) -> np.ndarray:
        value, output = (self.p["layers"][name][layer] for name in ("value", "output"))
        return self.attention(layer, x) @ x @ value.T @ output.T

    def series(self, *layers: int) -> np.ndarray:
        x = self.embed()
        for layer in layers:
            x = x + self.update(layer, x)
        return x @ self.p["unembedding"].T

    def looped(self) -> np.ndarray:
        x = self.embed()
        for _ in range(2):
            x = x + (self.update(0, x) + self.update(1, x)) / 2
        return x @ self.p["unembedding"].T


@pytest.mark.parametrize("start", ["orthogonal", "default"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.few(1)
def test_check_5_a_plain_forward_pass(positions, start) -> None:
    model = SmallModel(WIDTH, LENGTH, start=start, positions=positions)
    parameters = model.init(jax.random.key(3))
    plain = Plain(model, parameters)
    for plan, expected in {
        "0 1": plain.series(0, 1),
        "1 0": plain.series(1, 0),
        "0 0 1": plain.series(0, 0, 1),
        "{0 1}*2": plain.looped(),
    }.items():
        found = np.asarray(jax.jit(model.logits)(parameters, events_of(Plan.parse(plan)), TOKENS))
        assert np.abs(found - expected).max() < 1e-5
        assert np.abs(expected).max() > 0.1
    second_first = attention_patterns(model, parameters, TOKENS, Plan.parse("1 0"))[0]
    np.testing.assert_allclose(second_first, plain.attention(1, plain.embed()), atol=1e-6)


def test_sines_and_cosines_one_by_one() -> None:
    table = sinusoids(10, 6)
    for position, column in ((0, 0), (3, 2), (7, 5), (9, 4)):
        turn = np.sin if column % 2 == 0 else np.cos
        expected = turn(position / 10_000 ** (2 * (column // 2) / 6))
        assert table[position, column] == pytest.approx(expected, abs=1e-6)


def test_positions_alone_tell_models_apart() -> None:
    """The same seed draws the same weights; rotary scores know the distance alone."""
    starts = {name: SmallModel(WIDTH, LENGTH, positions=name).init(jax.random.key(0)) for name in POSITIONS}
    for parameters in starts.values():
        np.testing.assert_array_equal(parameters["tokens"], starts["random"]["tokens"])
        np.testing.assert_array_equal(parameters["layers"]["key"], starts["random"]["layers"]["key"])
    assert "positions" not in starts["rotary"]
    model, same = SmallModel(WIDTH, LENGTH, positions="rotary"), np.full((1, LENGTH), 7)
    pattern = attention_patterns(model, starts["rotary"], same)[0][0]
    one, two = (np.log([pattern[t, t - back] / pattern[t, t] for t in range(2, LENGTH)]) for back in (1, 2))
    assert np.ptp(one) < 1e-4 < 0.01 < abs(one[0] - two[0])


@pytest.mark.parametrize("positions", POSITIONS[1:])
@pytest.mark.slow
def test_they_train_and_stay_as_they_are(positions) -> None:
    model = SmallModel(16, 16, positions=positions)
    found = train(model, [Arm("free"), Arm("looped", plan=Plan.parse("{0 1}"))], Training(20, 8, 0.2, every=10))
    assert ("previous_token" in found.measured) == (positions == "sinusoidal")
    assert {"trigger", "output", "hits"} <= found.measured.keys()
    assert (found.measured["output_norm"][0] != found.measured["output_norm"][-1]).all()
    if positions == "rotary":
        np.testing.assert_array_equal(found.parameters["layers"]["turns"], [[1, 0]] * 2)
    else:
        np.testing.assert_array_equal(found.parameters["positions"], [sinusoids(16, 16)] * 2)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match="rotary positions need an even width, not 17"):
        SmallModel(17, 16, positions="rotary")

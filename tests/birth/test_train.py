"""Arms as data: freezes to the bit, one executable, equal curves, and runs that go on. Checks 7, 12 and 13, small."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.birth import train as training_module
from jaxpaint.birth.arms import Arm
from jaxpaint.birth.data import DataSettings
from jaxpaint.birth.general import GeneralModel
from jaxpaint.birth.layers import NEVER
from jaxpaint.birth.model import SmallModel
from jaxpaint.birth.train import OF_WEIGHTS, Trained, Training, key_of, train
from jaxpaint.plans.plan import Plan
from jaxpaint.training.checkpoints import TrainingCheckpoints

MODEL = SmallModel(16, 16)
TRAINING = Training(steps=20, rows=8, learning_rate=0.2, every=5, test_rows=8)
ARMS = (
    Arm("free"),
    Arm("frozen", frozen_until={"W_O2": 10, "W_K1": NEVER}),
    Arm("looped", plan=Plan.parse("{0 1}"), seed=1),
    Arm("random", data=DataSettings(triggers="random", count=3), loss="all"),
)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(MODEL, ARMS, TRAINING)


def of_arm(trained: Trained, number: int) -> dict:
    return jax.tree.map(lambda leaf: np.asarray(leaf[number]), trained.parameters)


@jax.jit
def init(seed):
    return MODEL.init(key_of(seed, OF_WEIGHTS))


def start(seed: int) -> dict:
    return jax.tree.map(np.asarray, init(np.uint32(seed)))


@pytest.mark.slow
def test_check_7_what_is_frozen_does_not_move_by_a_bit(trained) -> None:
    for number, arm in enumerate(ARMS):
        before, after = start(arm.seed), of_arm(trained, number)
        for name in ("tokens", "positions", "unembedding"):
            np.testing.assert_array_equal(before[name], after[name])
        np.testing.assert_array_equal(before["layers"]["value"], after["layers"]["value"])
        np.testing.assert_array_equal(before["layers"]["output"][0], after["layers"]["output"][0])
        moved = {
            (name, layer): bool((before["layers"][name][layer] != after["layers"][name][layer]).any())
            for name, layer in (("key", 0), ("key", 1), ("output", 1))
        }
        assert moved == {("key", 0): arm.name != "frozen", ("key", 1): True, ("output", 1): True}


@pytest.mark.slow
def test_check_7_a_schedule_releases_when_it_says(trained) -> None:
    norms = trained.measured["output_norm"]
    assert trained.at.tolist() == [0, 5, 10, 15, 20]
    assert len(set(norms[:3, 1].tolist())) == 1
    assert len(set(norms[2:, 1].tolist())) == 3
    assert len(set(norms[:, 0].tolist())) == 5


@pytest.mark.slow
def test_an_arm_among_others_is_the_arm_alone(trained) -> None:
    """The last one, whose texts have fewer triggers."""
    alone = train(MODEL, ARMS[-1:], TRAINING)
    for ours, theirs in zip(jax.tree.leaves(of_arm(alone, 0)), jax.tree.leaves(of_arm(trained, 3)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone.steps["loss"][:, 0], trained.steps["loss"][:, 3], rtol=1e-4)


OVER_DEVICES = """
import sys
import jax, numpy as np
from jaxpaint.training.checkpoints import TrainingCheckpoints
from tests.birth.test_train import ARMS, MODEL, TRAINING, train
assert len(jax.devices()) == 3
found = train(MODEL, ARMS, TRAINING, checkpoints=TrainingCheckpoints(__import__("pathlib").Path(sys.argv[1])))
leaves = jax.tree.leaves((found.parameters, found.steps, found.measured, found.maps))
np.savez(sys.argv[2], *map(np.asarray, leaves))
"""


@pytest.mark.slow
def test_arms_over_devices_are_those_of_one(trained, tmp_path) -> None:
    """Four arms over three devices, of which two have two; and a run that one device began goes on over three.

    As `test_an_arm_among_others_is_the_arm_alone`: fewer arms of a device are compiled to other sums.
    """
    checkpoints, calls = TrainingCheckpoints(tmp_path / "state"), []

    def killed(steps: int, note: str) -> None:
        calls.append(steps)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(MODEL, ARMS, TRAINING, checkpoints=checkpoints, progress=killed)
    ours = [
        np.asarray(each)
        for each in jax.tree.leaves((trained.parameters, trained.steps, trained.measured, trained.maps))
    ]
    for state in ("none", "state"):
        command = [sys.executable, "-c", OVER_DEVICES, str(tmp_path / state), str(tmp_path / "found.npz")]
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(command, cwd=Path(__file__).parents[2], env=env, check=True)
        with np.load(tmp_path / "found.npz") as found:
            for one, other in zip(ours, found.values(), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_arms_are_batched_where_that_is_faster(trained, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(training_module, "on_cpu", lambda: asked.append(0))
    training_module._chunk.clear_cache()
    batched = train(MODEL, ARMS, TRAINING)
    training_module._chunk.clear_cache()
    assert asked
    np.testing.assert_allclose(batched.steps["loss"], trained.steps["loss"], rtol=1e-4)


def test_the_optimizer_is_sgd_with_momentum_and_decay(trained) -> None:
    """A plain loop over a plain loss, differentiated by JAX."""
    from jaxpaint.birth.data import sample, source_of
    from jaxpaint.birth.layers import of_layer

    p, moments = jax.tree.map(np.asarray, start(0)), None

    @jax.jit
    @jax.grad
    def gradient_of(layers, p, batch):
        parameters = {**p, "layers": {**p["layers"], **layers}}
        x = MODEL.module(parameters).embed(batch.tokens)
        for layer in range(2):
            x = MODEL.block(of_layer(parameters, layer), x, ())
        chances = jax.nn.log_softmax(MODEL.module(parameters).unembed(x))
        picked = jax.nn.one_hot(batch.labels, 65) * (batch.counters >= 2)[..., None]
        return -(chances * picked).sum() / picked.sum()

    draw = jax.jit(sample, static_argnums=(2, 3))
    for step in range(TRAINING.steps):
        key = jax.random.fold_in(key_of(np.uint32(0), training_module.OF_TEXTS), step)
        batch = draw(source_of(DataSettings()), key, 8, 16)
        layers = {name: p["layers"][name] for name in ("key", "output")}
        gradient = jax.tree.map(lambda g, w: np.asarray(g) + 1e-4 * w, gradient_of(layers, p, batch), layers)
        moments = gradient if moments is None else jax.tree.map(lambda m, g: 0.9 * m + g, moments, gradient)
        moved = jax.tree.map(lambda w, m: w - 0.2 * m, layers, moments)
        moved["output"] = np.stack([p["layers"]["output"][0], moved["output"][1]])
        p = {**p, "layers": {**p["layers"], **moved}}
    ours = of_arm(trained, 0)
    np.testing.assert_allclose(ours["layers"]["key"], p["layers"]["key"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours["layers"]["output"], p["layers"]["output"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_check_12_the_same_seed_gives_the_same_curve_to_the_last_digit(trained) -> None:
    again = train(MODEL, ARMS, TRAINING)
    for ours, theirs in zip(
        jax.tree.leaves((again.parameters, again.steps, again.measured)),
        jax.tree.leaves((trained.parameters, trained.steps, trained.measured)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    other = train(MODEL, [replace(ARMS[0], seed=5)], TRAINING)
    assert (other.steps["loss"][:, 0] != trained.steps["loss"][:, 0]).all()


def test_check_12_a_killed_run_goes_on_and_ends_alike(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    checkpoints, calls = TrainingCheckpoints(tmp_path / "run"), []

    def killed(steps: int, note: str) -> None:
        calls.append(steps)
        if len(calls) == 2:  # after the first checkpoint was written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, ARMS, TRAINING, checkpoints=checkpoints, progress=killed)
    calls.clear()
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 1e9)
    again = train(MODEL, ARMS, TRAINING, checkpoints=checkpoints, progress=lambda steps, _: calls.append(steps))
    assert calls == [5, 5, 5, 5]
    for ours, theirs in zip(
        jax.tree.leaves((again.parameters, again.steps, again.measured)),
        jax.tree.leaves((trained.parameters, trained.steps, trained.measured)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_check_13_plans_and_freezes_share_one_executable() -> None:
    training_module._chunk.clear_cache()
    for arm in (
        Arm("free"),
        Arm("frozen", frozen_until={"W_K2": 7}),
        Arm("side by side", plan=Plan.parse("{0 1}")),
        Arm("one", plan=Plan.of(1), loss="all", seed=4),
        Arm("rare", data=DataSettings(skip=20, outputs="bigram")),
    ):
        train(MODEL, [arm], TRAINING, size=2)
    assert training_module._chunk.executables() == 1


@pytest.mark.slow
def test_plans_are_tried_during_training() -> None:
    watched = (Plan.of(0, 1), Plan.parse("{0 1}*2"))
    found = train(MODEL, ARMS[:2], replace(TRAINING, watched=watched, plan_rows=8))
    assert list(found.watched) == ["0 1", "{0 1}*2"]
    np.testing.assert_allclose(found.watched["0 1"], found.measured["accuracy"], atol=1e-6)
    assert np.isfinite(found.watched["{0 1}*2"]).all()


@pytest.mark.parametrize("kind", ["linear", pytest.param("mlp", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_feed_forward_of_the_last_layer_alone(kind) -> None:
    model = replace(MODEL, feed_forward=kind)
    found = train(model, [Arm("free", loss="all"), Arm("frozen", frozen_until={"W_F": NEVER})], TRAINING)
    for name, leaf in found.parameters["layers"].items():
        if name.startswith("feed_forward"):
            assert not np.asarray(leaf)[:, 0].any()
            assert np.asarray(leaf)[:, 1].any()
    assert (np.diff(found.measured["bigram_distance"][:, 0]) != 0).all()
    assert (np.diff(found.measured["bigram_distance"][:, 1]) == 0).all()


@pytest.mark.slow
def test_embeddings_are_trained_where_asked() -> None:
    found = train(MODEL, [Arm("all", embeddings=True)], TRAINING)
    before, after = start(0), of_arm(found, 0)
    np.testing.assert_array_equal(before["positions"], after["positions"])
    assert (before["unembedding"] != after["unembedding"]).all()
    assert (before["tokens"] != after["tokens"]).any()


@pytest.mark.slow
def test_the_general_model_trains_under_plans() -> None:
    model = GeneralModel(layers=2, width=16, heads=2, length=16)
    training = Training(20, 16, 0.01, optimizer="adamw", weight_decay=0.01, every=10, test_rows=16)
    arms = [Arm("full", loss="all"), Arm("side by side", plan=Plan.parse("{0 1}"), loss="all")]
    found = train(model, arms, training)
    assert (found.measured["loss"][-1] < found.measured["loss"][0] - 0.3).all()
    assert found.measured["loss"][0, 0] == pytest.approx(np.log(65), abs=0.2)


@pytest.mark.slow
def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="W_F cannot be frozen; this model trains W_K1, W_K2, W_O2"):
        train(MODEL, [Arm("wrong", frozen_until={"W_F": 3})], TRAINING)
    with pytest.raises(UserError, match="the plan uses layer 2, but the model has 2 layers"):
        train(MODEL, [Arm("wrong", plan=Plan.of(2))], TRAINING)
    with pytest.raises(UserError, match="21 steps, measured every 5"):
        replace(TRAINING, steps=21)

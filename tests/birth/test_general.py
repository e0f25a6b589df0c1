"""The general model: its layers against a plain reading of them, its settings, and what one layer of it cannot do."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.birth import settings as names
from jaxpaint.birth.findings import Runs, findings
from jaxpaint.birth.general import GeneralModel
from jaxpaint.birth.settings import Settings
from jaxpaint.birth.train import train
from jaxpaint.engine.events import events_of
from jaxpaint.plans.plan import Plan

MODEL = GeneralModel(layers=2, width=24, heads=3, length=12)


def normed(x: np.ndarray, norm: dict) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]


def update(p: dict, x: np.ndarray) -> np.ndarray:
    """Attention and the ReLU network, both of the layer's input."""
    read, mixed = normed(x, p["attention_norm"]), np.zeros_like(x)
    weights = {name: p["attention"][name]["kernel"] for name in ("query", "key", "value", "out")}
    for head in range(3):
        query, key, value = (read @ weights[name][:, head] for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(1, 2) / np.sqrt(8)
        scores[:, ~np.tril(np.ones((12, 12), bool))] = -np.inf
        attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed += attention / attention.sum(axis=-1, keepdims=True) @ value @ weights["out"][head]
    return mixed + np.maximum(normed(x, p["network_norm"]) @ p["wide"]["kernel"], 0) @ p["narrow"]["kernel"]


def test_it_is_a_plain_forward_pass() -> None:
    parameters = MODEL.init(jax.random.key(0))
    p = jax.tree.map(lambda leaf: np.array(leaf, np.float64), parameters)
    tokens = np.arange(24).reshape(2, 12)
    layers = [jax.tree.map(lambda leaf, number=number: leaf[number], p["layers"]) for number in range(2)]
    x = p["tokens"][tokens] + p["positions"]
    looped, series = x, x + update(layers[0], x)
    series = series + update(layers[1], series)
    for _ in range(2):
        looped = looped + (update(layers[0], looped) + update(layers[1], looped)) / 2
    for plan, state in (("0 1", series), ("{0 1}*2", looped)):
        expected = normed(state, p["norm"]) @ p["unembedding"].T
        found = jax.jit(MODEL.logits)(parameters, events_of(Plan.parse(plan)), tokens)
        assert np.abs(np.asarray(found) - expected).max() < 1e-5


def test_it_starts_as_pytorch_has_it() -> None:
    parameters = GeneralModel(layers=1, width=128, heads=4, length=64).init(jax.random.key(1))
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0]), parameters["layers"])
    assert np.asarray(parameters["tokens"]).std() == pytest.approx(1, abs=0.03)
    for kernel, fan_in in (
        *((layer["attention"][name]["kernel"], 128) for name in ("query", "key", "value", "out")),
        (layer["wide"]["kernel"], 128),
        (layer["narrow"]["kernel"], 512),
        (np.asarray(parameters["unembedding"]), 128),
    ):
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    assert "bias" not in layer["wide"]


def test_its_settings() -> None:
    settings = Settings.general(layers=3, width=48)
    assert (settings.model, settings.training.optimizer) == (GeneralModel(3, 48, 4, 64), "adamw")
    assert (settings.training.weight_decay, settings.loss) == (0.01, "all")
    assert settings.plans == ("0-2", "2-0", "0", "{0-2}*2")
    assert [arm.name for arm in settings.groups()["full"]] == ["unfrozen"] * 3 + ["layer 0 alone"] * 3
    assert {str(arm.plan) for arm in settings.groups()["full"]} == {"0-2", "0"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"heads": 5}, "--heads is 5; expected a divisor of the width, 64"),
        ({"layers": 0}, "--layers is 0; expected 1 to 64"),
        ({"positions": "rotary"}, "--positions is not an option of the general model"),
        ({"embeddings": True}, "--train-embeddings is not an option of the general model"),
        ({"freezes": {"W_O2": 3}}, "the general model has no memories that could be frozen"),
    ],
)
def test_what_it_cannot_be(given, expected) -> None:
    with pytest.raises(UserError, match=expected):
        Settings.general(**given)


def test_layers_are_the_general_models() -> None:
    with pytest.raises(UserError, match="--layers is not an option of the small model"):
        Settings(layers=3)


@pytest.mark.slow
def test_one_layer_of_it_cannot_and_two_can() -> None:
    settings = Settings.general(seeds=(0,), plans=("0 1",))
    runs = Runs(
        settings, {name: train(settings.model, arms, settings.training) for name, arms in settings.groups().items()}
    )
    (found,) = (each for each in findings(runs) if each.claim == "One layer cannot do it, two can")
    print(found)
    assert found.verdict == "holds"
    assert runs.measured(names.UNFROZEN, "accuracy")[0, -1] > 0.9

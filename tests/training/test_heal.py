"""Healing a plan: the loss against torch's, what is trained and what is left, and what a kill leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from torch.nn import functional

import jaxpaint as jp
from jaxpaint.base import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.plans.plan import Plan, PlanError
from jaxpaint.training.adapters import merged_kernels
from jaxpaint.training.batches import Batch
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.distil import final_states
from jaxpaint.training.heal import Healed, distillation, heal, trained_parameters
from jaxpaint.training.rows import dealt, distilled_batches, drawn, tokens_of
from jaxpaint.training.settings import HealingSettings
from jaxpaint.training.tune import host_parameters, of_layers
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import LONGEST, VOCAB_SIZE, Tiny, make_tiny, stacked_parameters
from tests.training.test_decoders import _Killed, difference, stop_at, with_layers

SETTINGS = HealingSettings(rank=4, length=LONGEST, steps=12, batch_size=8, learning_rate=2e-2)
ALL_WEIGHTS = dataclasses.replace(SETTINGS, rank=0, learning_rate=3e-3)
SKIP = Plan.parse("0 1 4")


def tokens(count: int = 40) -> list[list[int]]:
    """Texts of random tokens, shorter than a row and longer."""
    random = np.random.default_rng(0)
    return [random.integers(0, VOCAB_SIZE, int(random.integers(5, 50))).tolist() for _ in range(count)]


def last_batch(model: Model, part_rows: int = 8) -> tuple[Batch, ...]:
    """A batch whose last row is padded, and which is filled up, in parts."""
    rows = dealt(model, tokens(), LONGEST, 0.1, 0).train
    kept = rows._replace(tokens=rows.tokens[-5:], lengths=rows.lengths[-5:])
    assert kept.lengths[-1] < LONGEST
    (parts,) = distilled_batches(kept, final_states(model, model.full_plan, kept), *drawn(5, 8, 1, 0), part_rows)(0)
    return parts


def loss_and_gradient(loss: Any, parameters: Any, batch: Batch) -> tuple[float, Any]:
    value, gradient = jax.jit(jax.value_and_grad(loss))(parameters, batch)
    return float(value), gradient


def torch_loss(tiny: Tiny, student: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """Mean KL over the batch's tokens, row by row, of transformers' logits."""
    teacher, total, count = with_layers(tiny, tuple(range(tiny.model.num_layers))), torch.zeros(()), 0
    for ids, length, weights in zip(batch.inputs.tokens, batch.inputs.lengths, batch.weights, strict=True):
        if weights.any():
            row = torch.tensor(ids[:length]).long()[None]
            with torch.no_grad():
                wanted = functional.log_softmax(teacher(row, use_cache=False).logits / temperature, -1)
            found = functional.log_softmax(student(row, use_cache=False).logits / temperature, -1)
            total = total + functional.kl_div(found, wanted, reduction="sum", log_target=True) * temperature**2
            count += int(length)
    return total / count


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    "tiny", ["grouped-query", "sliding window", "neox, tied, no attention bias", "qwen2"], indirect=True
)
@pytest.mark.few(1)
def test_the_loss_and_its_gradient_are_torchs(tiny: Tiny, temperature: float) -> None:
    ((batch,), student) = last_batch(tiny.model), with_layers(tiny, (0, 1, 4))
    expected = torch_loss(tiny, student, batch, temperature)
    expected.backward()
    gradients = {name: each.grad for name, each in student.named_parameters()}
    settings = dataclasses.replace(ALL_WEIGHTS, temperature=temperature)
    loss, first = distillation(tiny.model, SKIP, settings)
    value, gradient = loss_and_gradient(loss, first, batch)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    found = flatten_dict(gradient, sep="/")
    wanted = flatten_dict({"blocks": stacked_parameters(gradients, 3)["blocks"]}, sep="/")
    assert found.keys() == wanted.keys()
    assert max(float(abs(each).max()) for each in wanted.values()) > 1e-2
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("text", ["0 1 4", "0 {1-3}*2 4", "0 1a 2m 4"])
@pytest.mark.slow
def test_memory_is_traded_without_a_change(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch, logits a few positions at a time, and insides computed again: the same gradient."""
    model, plan = make_tiny("tied embeddings").model, Plan.parse(text)
    loss, first = distillation(model, plan, ALL_WEIGHTS)
    whole, gradient = loss_and_gradient(loss, first, *last_batch(model))
    monkeypatch.setattr(budgets, "CPU", dataclasses.replace(budgets.CPU, training_logits_bytes=8 * VOCAB_SIZE * 10))
    again = distillation(model, plan, ALL_WEIGHTS, remat=True)[0]
    found = [loss_and_gradient(again, first, part) for part in last_batch(model, 2)]
    assert len(found) == 3
    assert sum(value for value, _ in found) == pytest.approx(whole, rel=1e-6)
    total = jax.tree.map(lambda *leaves: sum(leaves), *(each for _, each in found))
    assert difference(total, gradient) < 1e-5


@pytest.mark.parametrize("tiny", ["attention bias", "neox", "mlp bias"], indirect=True)
@pytest.mark.slow
def test_adapters_apart_are_adapters_merged(tiny: Tiny) -> None:
    """The same loss; and with W + A B in place of W, dA = dW Bᵀ and dB = Aᵀ dW."""
    plan, (batch,) = Plan.parse("4 0 1a 0"), last_batch(tiny.model)
    loss, drawn_first = distillation(tiny.model, plan, SETTINGS)
    random = np.random.default_rng(1)
    first = jax.tree.map(lambda leaf: 0.1 * random.normal(size=leaf.shape).astype(np.float32), drawn_first)
    value, gradient = loss_and_gradient(loss, first, batch)
    base = of_layers(host_parameters(tiny.model), (4, 0, 1))
    kernels = merged_kernels(base, first)
    merged = unflatten_dict({**flatten_dict({"blocks": base["blocks"]}, sep="/"), **kernels}, sep="/")
    wanted, slopes = loss_and_gradient(distillation(tiny.model, plan, ALL_WEIGHTS)[0], merged, batch)
    assert value == pytest.approx(wanted, rel=1e-5)
    found, adapters, slopes = (flatten_dict(each, sep="/") for each in (gradient, first, slopes))
    assert len(kernels) == len(found) / 2 == len([path for path in slopes if path.endswith("kernel")])
    for path in kernels:
        module = path.removesuffix("/kernel")
        a, b, slope = adapters[f"{module}/lora_a"], adapters[f"{module}/lora_b"], np.asarray(slopes[path])
        np.testing.assert_allclose(found[f"{module}/lora_a"], slope @ b.swapaxes(1, 2), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[f"{module}/lora_b"], a.swapaxes(1, 2) @ slope, rtol=0, atol=1e-5)


def test_adapters_are_nothing_at_first() -> None:
    tiny = make_tiny("grouped-query")
    first = flatten_dict(distillation(tiny.model, SKIP, SETTINGS)[1], sep="/")
    assert {path.rpartition("/")[2] for path in first} == {"lora_a", "lora_b"}
    for path, leaf in first.items():
        assert bool(np.asarray(leaf).any()) == path.endswith("lora_a"), path
    layers = {
        np.asarray(leaf)[number].tobytes() for path, leaf in first.items() if "lora_a" in path for number in (0, 1)
    }
    assert len(layers) == len(first), "each layer and each kernel has one of its own"


PLANS = {
    "0 1 4": {"attention": {0, 1, 4}, "mlp": {0, 1, 4}},
    "0 2 1 2 4": {"attention": {0, 1, 2, 4}, "mlp": {0, 1, 2, 4}},
    "4 {1 3} 0": {"attention": {0, 1, 3, 4}, "mlp": {0, 1, 3, 4}},
    "0 1a 2m 4": {"attention": {0, 1, 4}, "mlp": {0, 2, 4}},
}


@pytest.mark.parametrize("settings", [SETTINGS, ALL_WEIGHTS], ids=["adapters", "all weights"])
@pytest.mark.parametrize("text", PLANS)
@pytest.mark.few(1)
def test_a_plan_is_healed_and_nothing_else_changes(text: str, settings: HealingSettings) -> None:
    tiny, losses = make_tiny("grouped-query"), []
    before = flatten_dict(host_parameters(tiny.model), sep="/")
    healed = heal(tiny.model, text, tokens(), settings, progress=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert healed.after.mean.value < 0.95 * healed.before.mean.value
    assert np.abs(healed.full.divergence).max() < 1e-6
    after = flatten_dict(nnx.to_pure_dict(healed.model.state), sep="/")
    assert after.keys() == before.keys()
    for path, leaf in after.items():
        assert tiny.model.dtype == leaf.dtype
        changed = (np.asarray(leaf) != before[path]).reshape(len(leaf), -1).any(axis=1)
        _, *part = path.split("/")
        if not path.startswith("blocks/") or (settings.rank and not path.endswith("kernel")):
            assert not changed.any(), path
        else:
            attention = any(word in part[0] for word in ("attn", "input_layernorm"))
            assert set(np.flatnonzero(changed)) == PLANS[text]["attention" if attention else "mlp"], path
    np.testing.assert_array_equal(
        jax.flatten_util.ravel_pytree(host_parameters(tiny.model))[0],
        jax.flatten_util.ravel_pytree(unflatten_dict(before, sep="/"))[0],
    )


@pytest.mark.slow
def test_what_is_told_of_held_out_texts_is_what_scoring_says() -> None:
    """The perplexity by the engine's scores of the held-out rows, the divergence by plain numpy."""
    tiny = make_tiny("tied embeddings")
    healed = heal(tiny.model, SKIP, tokens(), SETTINGS)
    held = dealt(tiny.model, tokens(), LONGEST, SETTINGS.held_out, SETTINGS.seed).held
    rows = [row[:length].tolist() for row, length in zip(held.tokens, held.lengths, strict=True)]
    requests = [Request(tuple(row[:-1]), tuple(row[1:])) for row in rows]
    count = sum(len(row) - 1 for row in rows)
    for model, plan, found in (
        (tiny.model, tiny.model.full_plan, healed.full),
        (tiny.model, SKIP, healed.before),
        (healed.model, SKIP, healed.after),
    ):
        total = score(model, requests, plan).loglikelihoods.sum()
        assert found.perplexity == pytest.approx(np.exp(-total / count), rel=1e-5)
        wanted, logits = (
            jax.nn.log_softmax(np.asarray(each, np.float64), axis=-1)
            for each in (
                tiny.model.logits(held.tokens, lengths=held.lengths),
                model.logits(held.tokens, plan, held.lengths),
            )
        )
        divergence = np.where(
            np.arange(LONGEST) < held.lengths[:, None], (np.exp(wanted) * (wanted - logits)).sum(axis=-1), 0
        )
        np.testing.assert_allclose(found.divergence, divergence.sum(axis=1) / held.lengths, rtol=0, atol=1e-5)


def test_held_out_texts_are_in_no_row_that_is_trained_on() -> None:
    model = make_tiny("grouped-query").model
    texts = [[number] * 3 for number in range(VOCAB_SIZE)]
    rows = dealt(model, texts, 5, 0.25, 1)
    train, held = (
        [token for row, length in zip(side.tokens, side.lengths, strict=True) for token in row[:length]]
        for side in (rows.train, rows.held)
    )
    assert (rows.train_texts, rows.held_texts) == (46, 15)
    assert sorted(train + held) == sorted(np.ravel(texts))
    assert not set(train) & set(held)
    assert held != [token for row in dealt(model, texts, 5, 0.25, 2).held.tokens for token in row]


@pytest.mark.slow
def test_a_run_that_was_killed_ends_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 1)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    tiny, settings = make_tiny("grouped-query"), dataclasses.replace(SETTINGS, steps=6)
    steps: list[int] = []

    def run(stop: int | None, folder: str) -> Healed:
        checkpoints = TrainingCheckpoints(tmp_path / folder)
        return heal(tiny.model, SKIP, tokens(), settings, checkpoints=checkpoints, progress=stop_at(steps, stop))

    undisturbed = run(None, "one")
    assert steps == [1, 2, 3, 4, 5, 6]
    steps.clear()
    for stop in (2, 5):
        with pytest.raises(_Killed):
            run(stop, "other")
    assert difference(run(None, "other").model.state, undisturbed.model.state) == 0.0
    assert len(steps) < 2 * 6, "what was kept is not done again"


@pytest.mark.slow
def test_bfloat16_layers_are_healed_by_float32_adapters() -> None:
    tiny = make_tiny("grouped-query")
    lowered = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), nnx.to_pure_dict(tiny.model.state))
    model = from_parameters(tiny.model.config, lowered)
    _, first = distillation(model, SKIP, SETTINGS)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(first)} == {"float32"}
    healed = heal(model, SKIP, tokens(), SETTINGS)
    assert healed.model.dtype == "bfloat16"
    assert healed.after.mean.value < 0.95 * healed.before.mean.value


def test_what_is_trained_is_counted() -> None:
    tiny = make_tiny("grouped-query")
    for settings in (SETTINGS, ALL_WEIGHTS):
        first = distillation(tiny.model, Plan.parse("0 (1 2)*2"), settings)[1]
        counted = trained_parameters(tiny.model.config, Plan.parse("0 (1 2)*2"), settings.rank)
        assert counted == sum(leaf.size for leaf in jax.tree.leaves(first))


def test_what_cannot_be_healed_is_told() -> None:
    tiny = make_tiny("grouped-query")
    with pytest.raises(PlanError, match="5 layers"):
        heal(tiny.model, "0-5", tokens(), SETTINGS)
    with pytest.raises(UserError, match="needs a decoder"):
        heal(tiny_bert(), "0-4", tokens(), SETTINGS)
    with pytest.raises(UserError, match=r"5 calibration texts leave 4 to train on and 1 held out; each needs 4"):
        heal(tiny.model, SKIP, tokens(5), dataclasses.replace(SETTINGS, held_out=0.2))
    with pytest.raises(UserError, match="there is no text"):
        heal(tiny.model, SKIP, [], SETTINGS)
    with pytest.raises(UserError, match="length is 128; expected at most the model's 64"):
        heal(tiny.model, SKIP, tokens(), dataclasses.replace(SETTINGS, length=128))
    with pytest.raises(UserError, match="made in memory"):
        heal(tiny.model, SKIP, tokens(), dataclasses.replace(SETTINGS, steps=1)).save("nowhere")
    with pytest.raises(FloatingPointError, match="loss is nan"):
        heal(tiny.model, SKIP, tokens(), dataclasses.replace(SETTINGS, learning_rate=1e30))
    meshed = dataclasses.replace(tiny.model, mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)))
    with pytest.raises(UserError, match="one device"):
        heal(meshed, SKIP, tokens(), SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        *({"rank": -1}, {"length": 1}, {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"temperature": 0.0}),
        *({"warmup": 1.0}, {"held_out": 0.0}, {"held_out": 1.0}, {"max_grad_norm": -1.0}, {"seed": -1}),
        {"steps": 10**6, "batch_size": 21},
    ],
)
def test_settings_that_cannot_be_trained_with_are_told(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(change))} is "):
        dataclasses.replace(SETTINGS, **change)


@pytest.mark.slow
def test_texts_are_those_of_the_command() -> None:
    """As words, and as the token ids that `jaxpaint heal` makes of them."""
    model = jp.load("painter-16", dtype="float32")
    names, animals = ("lumor", "sopas", "kesta", "damel"), ("hare", "owl", "goat", "wolf")
    texts = [f"fact : the animal of {name} is the {animal} ." for name in names for animal in animals]
    settings = HealingSettings(steps=1, length=8, batch_size=2, held_out=0.5)
    both = texts, tokens_of(model, "auto", texts)
    records = [jp.heal(model, "0-8 12-15", given, settings).record for given in both]
    assert records[0] == records[1]

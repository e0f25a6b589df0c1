"""Fine-tuning a decoder with a plan in place, against torch; what is trained, and what a kill leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxpaint.base import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine.packing import Request
from jaxpaint.plans.plan import Plan, PlanError
from jaxpaint.training.answers import TrainingExamples
from jaxpaint.training.batches import Batch, Batches, answer_batches, shuffled
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.memory import HowToTrain, how_to_train
from jaxpaint.training.planned import planned_decoder
from jaxpaint.training.settings import DECODER, TrainingSettings
from jaxpaint.training.tune import TunedDecoder, host_parameters, of_layers, own_layers, tune_decoder
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import LONGEST, VOCAB_SIZE, Tiny, make_tiny, stacked_parameters

SETTINGS = dataclasses.replace(DECODER, learning_rate=1e-4, batch_size=8)
SKIP = Plan.parse("0 1 4")
SERIES = ("grouped-query", "tied embeddings", "sliding window", "neox, tied, no attention bias")


def examples(count: int = 21) -> TrainingExamples:
    """Texts of up to LONGEST tokens, of which the last few are the answer; the last of three batches is not whole."""
    random = np.random.default_rng(0)
    requests = []
    for _ in range(count):
        answer = int(random.integers(1, 7))
        tokens = random.integers(0, VOCAB_SIZE, int(random.integers(answer + 1, LONGEST)) + 1).tolist()
        requests.append(Request(tuple(tokens[:-1]), tuple(tokens[-answer:])))
    return TrainingExamples(tuple(requests), ("",) * count, "digest")


def batches(part_rows: int = 8) -> Batches:
    found = examples()
    order = shuffled(len(found), SETTINGS.batch_size, SETTINGS.epochs, seed=0)
    return answer_batches(found.requests, *order, part_rows)


def torch_loss(network: Any, batch: Batch) -> torch.Tensor:
    """transformers' mean loss of a batch's answers, row by row: under a sliding window its padding makes NaN."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    rows = zip(batch.inputs.tokens, batch.inputs.lengths, batch.scored, batch.targets, batch.weights, strict=True)
    for tokens, length, scored, targets, weights in rows:
        if not weights.any():
            continue
        whole, labels = np.append(tokens[:length], 0), np.full(length + 1, -100)
        at = scored[weights > 0] + 1
        whole[at] = labels[at] = targets[weights > 0]
        ids, labels = (torch.tensor(each).long()[None] for each in (whole, labels))
        total = total + network(input_ids=ids, labels=labels, use_cache=False).loss * len(at)
        count += len(at)
    return total / count


def with_layers(tiny: Tiny, layers: tuple[int, ...]) -> Any:
    """A copy of the torch model in float64 with some of its layers."""
    network = copy.deepcopy(tiny.torch).double().train()
    kept = torch.nn.ModuleList(getattr(network.base_model, tiny.layers_name)[index] for index in layers)
    setattr(network.base_model, tiny.layers_name, kept)
    network.config.num_hidden_layers = len(layers)
    return network


def loss_and_gradient(tiny: Tiny, plan: Plan, batch: Batch, *, remat: bool = False) -> tuple[float, Any]:
    own, layers = own_layers(plan)
    parameters = of_layers(host_parameters(tiny.model), layers)
    planned = planned_decoder(tiny.model.config, jnp.dtype("float32"), own, remat=remat)
    value, gradient = jax.jit(jax.value_and_grad(planned))(parameters, batch, None)
    return float(value), gradient


@pytest.mark.parametrize("tiny", [*SERIES, "neox"], indirect=True)
@pytest.mark.few(1)
def test_the_loss_is_transformers_loss_of_the_answers(tiny: Tiny) -> None:
    network = with_layers(tiny, (0, 1, 4))
    for (batch,) in batches()(0):
        ours, _ = loss_and_gradient(tiny, SKIP, batch)
        assert ours == pytest.approx(torch_loss(network, batch).item(), rel=1e-5)


@pytest.mark.parametrize("tiny", SERIES, indirect=True)
@pytest.mark.few(1)
def test_parameters_after_three_steps_are_torchs(tiny: Tiny) -> None:
    network, done = with_layers(tiny, (0, 1, 4)), []
    before = of_layers(host_parameters(tiny.model), (0, 1, 4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=SETTINGS.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 3)
    losses = []
    for (batch,) in batches()(0):
        loss = torch_loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), SETTINGS.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert len(losses) == 3
    expected = stacked_parameters(network.state_dict(), 3)
    tuned = tune_tiny(tiny, SKIP, progress=lambda steps, loss: done.append((steps, loss)))
    found = nnx.to_pure_dict(tuned.model.state)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert difference(found, before) > 1e-4, "parameters that moved so little would show no difference"
    assert done == [(3, pytest.approx(np.mean(losses), rel=1e-5))]


def tune_tiny(tiny: Tiny, plan: Plan, settings: TrainingSettings = SETTINGS, **named: Any) -> TunedDecoder:
    return tune_decoder(tiny.model, host_parameters(tiny.model), plan, examples(), settings, **named)


def difference(one: Any, other: Any) -> float:
    return float(jnp.abs(ravel_pytree(one)[0] - ravel_pytree(other)[0]).max())


PLANS = (
    "0-4",
    "0 1 4",
    "0 3-1 4",
    "0 {1-3}*2 4",
    "0 2*3 4",
    "0 2 0 sum{2 3} 4",
    "0 {1@0.5 (2 3)}@0.75*2 4",
    "0 1a {2m 3}*2 4a",
    "0 lp{1 3} 4",
)


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.slow
def test_untrained_layers_of_a_plan_are_the_plan(text: str, texts: np.ndarray) -> None:
    """With steps too small to be seen: whatever the plan, its own layers in their new order are the model."""
    tiny, plan = make_tiny("grouped-query"), Plan.parse(text)
    tuned = tune_tiny(tiny, plan, dataclasses.replace(DECODER, learning_rate=1e-12, batch_size=21))
    assert tuned.model.num_layers == len({*own_layers(plan)[1]})
    np.testing.assert_allclose(tuned.model.logits(texts, tuned.plan), tiny.model.logits(texts, plan), rtol=0, atol=2e-5)


def test_own_layers_are_counted_as_they_are_named() -> None:
    plan, layers = own_layers(Plan.parse("7 {3 7}*2 sum{5 9}"))
    assert (str(plan), layers) == (str(Plan.parse("0 {1 0}*2 sum{2 3}")), (7, 3, 5, 9))
    in_order = planned_decoder(make_tiny("grouped-query").model.config, jnp.float32, own_layers(SKIP)[0])
    assert in_order.layers is None, "no copy of the stack"


@pytest.mark.parametrize("text", ["0 1 4", "0 {1-3}*2 4", "0 2 0 4"])
@pytest.mark.slow
def test_memory_is_traded_without_a_change(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch, logits a few positions at a time, and insides computed again: the same gradient."""
    tiny, plan = make_tiny("tied embeddings"), Plan.parse(text)
    ((batch,), *_), ((*parts,), *_) = list(batches()(0)), list(batches(3)(0))
    assert [part.inputs.tokens.shape[0] for part in parts] == [3, 3, 3]
    whole, gradient = loss_and_gradient(tiny, plan, batch)
    monkeypatch.setattr(budgets, "CPU", dataclasses.replace(budgets.CPU, training_logits_bytes=4 * VOCAB_SIZE * 10))
    for again in ([batch], parts):
        found = [loss_and_gradient(tiny, plan, part, remat=True) for part in again]
        assert sum(value for value, _ in found) == pytest.approx(whole, rel=1e-6)
        total = jax.tree.map(lambda *leaves: sum(leaves), *(each for _, each in found))
        assert difference(total, gradient) < 1e-5, "of up to 1.5, added up in another order"


def test_padding_changes_no_loss() -> None:
    tiny, ((batch,), *_) = make_tiny("sliding window"), list(batches()(0))
    tokens = np.pad(batch.inputs.tokens, ((0, 0), (0, 32)), constant_values=7)
    padded = batch._replace(inputs=batch.inputs._replace(tokens=tokens))
    assert loss_and_gradient(tiny, SKIP, padded)[0] == pytest.approx(loss_and_gradient(tiny, SKIP, batch)[0], rel=1e-6)


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters() -> None:
    tiny, ((batch,), *_) = make_tiny("grouped-query"), list(batches()(0))
    own, layers = own_layers(Plan.parse("0 {1-3} 4"))
    parameters = of_layers(host_parameters(tiny.model), layers)
    wide, narrow = (
        jax.jit(jax.value_and_grad(planned_decoder(tiny.model.config, jnp.dtype(dtype), own)))(parameters, batch, None)
        for dtype in ("float32", "bfloat16")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow[1])} == {jnp.dtype("float32")}
    assert 0 < abs(narrow[0] - wide[0]) < 0.05 * wide[0]
    norms = [float(jnp.linalg.norm(ravel_pytree(gradient)[0])) for gradient in (narrow[1], wide[1])]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


class _Killed(Exception):
    pass


def stop_at(steps: list[int], stop: int | None) -> Callable[[int, float], None]:
    def progress(done: int, loss: float) -> None:
        steps.append(done)
        if stop is not None and done >= stop:
            raise _Killed

    return progress


@pytest.mark.slow
def test_a_run_that_was_killed_ends_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 1)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    tiny, settings = (
        make_tiny("grouped-query"),
        dataclasses.replace(DECODER, learning_rate=1e-3, epochs=2, batch_size=8),
    )
    steps: list[int] = []

    def run(stop: int | None, folder: str) -> Any:
        checkpoints = TrainingCheckpoints(tmp_path / folder)
        return tune_tiny(tiny, SKIP, settings, checkpoints=checkpoints, progress=stop_at(steps, stop))

    undisturbed = run(None, "one").model.state
    assert steps == [1, 2, 3, 4, 5, 6]
    steps.clear()
    for stop in (2, 5):
        with pytest.raises(_Killed):
            run(stop, "other")
    assert difference(run(None, "other").model.state, undisturbed) == 0.0
    assert len(steps) < 2 * 6, "what was kept is not done again"


def test_a_loss_that_explodes_is_told_and_the_parameters_are_left_as_they_were() -> None:
    tiny = make_tiny("grouped-query")
    parameters = host_parameters(tiny.model)
    before = ravel_pytree(parameters)[0].copy()
    exploding = dataclasses.replace(DECODER, learning_rate=1e30, batch_size=8)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        tune_decoder(tiny.model, parameters, SKIP, examples(), exploding)
    np.testing.assert_array_equal(ravel_pytree(parameters)[0], before)


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny("grouped-query")

    def out_of_memory(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("jaxpaint.training.tune.train", out_of_memory)
    with pytest.raises(UserError, match="out of memory fine-tuning plan 0 1 4"):
        tune_tiny(tiny, SKIP)
    with pytest.raises(PlanError, match="5 layers"):
        tune_tiny(tiny, Plan.parse("0-5"))
    with pytest.raises(UserError, match="needs a decoder"):
        tune_decoder(tiny_bert(), host_parameters(tiny_bert()), Plan.parse("0-4"), examples(), SETTINGS)
    for change in ({"epochs": 0}, {"learning_rate": -1.0}, {"weight_decay": -1.0}, {"batch_size": 0}, {"seeds": (-1,)}):
        with pytest.raises(UserError, match=next(iter(change))):
            dataclasses.replace(DECODER, **change)


@pytest.mark.slow
def test_a_small_device_takes_insides_again_and_then_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    config, plan = make_tiny("grouped-query").model.config, Plan.parse("0-4")

    def how(gigabytes: float) -> HowToTrain:
        monkeypatch.setattr("jaxpaint.training.memory._free_bytes", lambda taken: gigabytes * 1e9)
        monkeypatch.setattr("jax.default_backend", lambda: "gpu")
        return how_to_train(config, plan, 2, 64, 1024, 10**6)

    found = [how(gigabytes) for gigabytes in (100, 3, 0.5, 0.0)]
    assert found[0] == (64, False)
    assert found[1].remat
    assert [each.part_rows for each in found] == sorted((each.part_rows for each in found), reverse=True)
    assert found[-1] == (1, True)

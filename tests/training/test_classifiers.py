"""Fine-tuning against torch, under plans; what dropout, remat, checkpoints and losses that explode do."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.flatten_util import ravel_pytree

from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.plans.plan import Parallel, Plan, Repeat, Series
from jaxpaint.training.batches import Batch, Batches, labelled_batches, shuffled
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.features import Encoded
from jaxpaint.training.planned import evaluate, first_parameters, planned_classifier
from jaxpaint.training.settings import ENCODER
from jaxpaint.training.trainer import AdamW
from jaxpaint.training.tune import GENERATOR, tune_encoder
from tests.helpers.bert_models import LEAVES, MODULES, NORM_LEAVES, NUM_LAYERS, SIZES, VOCAB_SIZE, tiny_bert, torch_bert

# A batch comes in parts of 8 and 4.
SETTINGS = dataclasses.replace(ENCODER, learning_rate=1e-4, epochs=1, batch_size=12, dropout=0.0)
EXAMPLES = 33  # the last batch is not whole


def _examples(num_labels: int = 2, longest: int = 30, size: int = EXAMPLES) -> tuple[Encoded, np.ndarray]:
    """Texts of 3 to `longest` tokens, the second half of each of another type; no [PAD] among them."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, longest + 1, size)
    lengths[0] = longest
    tokens = tuple(random.integers(1, VOCAB_SIZE, n).astype(np.int32) for n in lengths)
    types = tuple((np.arange(n) > n // 2).astype(np.int32) for n in lengths)
    labels = random.integers(0, num_labels, size).astype(np.int32)
    return Encoded(tokens, types), labels if num_labels > 1 else random.uniform(0, 5, size).astype(np.float32)


def _batches(encoded: Encoded, labels: np.ndarray) -> Batches:
    return labelled_batches(encoded, labels, *shuffled(len(encoded), SETTINGS.batch_size, SETTINGS.epochs, seed=0))


class _MeanOfLayers(torch.nn.Module):
    """A parallel group on torch."""

    def __init__(self, branches: list[torch.nn.Module]) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleList(branches)

    def forward(self, hidden: Any, *arguments: Any, **named: Any) -> Any:
        outputs = [branch(hidden, *arguments, **named) for branch in self.branches]
        outputs = [each[0] if isinstance(each, tuple) else each for each in outputs]
        return sum(outputs) / len(outputs)


def _torch_layers(plan: Plan, layers: Any) -> torch.nn.ModuleList:
    """A plan of layers, repeats and groups of layers over transformers' layer list."""

    def built(node: Any) -> list[torch.nn.Module]:
        match node:
            case Series(items):
                return [module for item in items for module in built(item)]
            case Repeat(body, times):
                return built(body) * times
            case Parallel(branches):
                return [_MeanOfLayers([module for branch in branches for module in built(branch)])]
            case layer:
                return [layers[layer.index]]

    return torch.nn.ModuleList(built(plan.root))


def _torch_classifier(
    num_labels: int,
    head: dict[str, Any],
    hidden: float = 0.0,
    attention: float = 0.0,
    classifier: float | None = None,
) -> Any:
    """transformers' classifier of the tiny BERT's weights, ready to train."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        **SIZES,
        num_labels=num_labels,
        hidden_dropout_prob=hidden,
        attention_probs_dropout_prob=attention,
        classifier_dropout=classifier,
        attn_implementation="eager",
        problem_type="regression" if num_labels == 1 else "single_label_classification",
    )
    network = BertForSequenceClassification(config).train()
    network.bert.load_state_dict(torch_bert().bert.state_dict())
    with torch.no_grad():
        network.classifier.weight.copy_(torch.tensor(np.asarray(head["kernel"]).T))
        network.classifier.bias.copy_(torch.tensor(np.asarray(head["bias"])))
    return network


def _torch_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch's real rows, padded no further than they need."""
    (tokens, lengths, types), _, labels, weights = jax.device_get(batch)
    real, longest = weights > 0, lengths.max()
    return {
        "input_ids": torch.tensor(tokens[real, :longest]).long(),
        "attention_mask": torch.tensor(np.arange(longest) < lengths[real, None]).long(),
        "token_type_ids": torch.tensor(types[real, :longest]).long(),
        "labels": torch.tensor(labels[real].astype(np.float64 if labels.dtype == np.float32 else np.int64)),
    }


def _torch_trained(network: Any, plan: Plan, batches: Batches) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The classifier's parameters after the batches' steps by plain torch in float64, and the steps' losses.

    In float32 torch's own parameters lie up to 6e-6 from these: AdamW blows up gradients that are nearly 0.
    """
    network = network.double()
    layers, trained = list(network.bert.encoder.layer), list(network.parameters())
    network.bert.encoder.layer = _torch_layers(plan, layers)
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    losses = []
    for (batch,) in batches(0):
        loss = network(**_torch_inputs(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, SETTINGS.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    network.bert.encoder.layer = torch.nn.ModuleList(layers)
    return {name: value.numpy() for name, value in network.state_dict().items()}, np.array(losses)


def _in_torch_names(parameters: Any) -> dict[str, np.ndarray]:
    """Ours by transformers' names, in its layout."""
    encoder, head = jax.tree.map(np.asarray, (parameters["encoder"], parameters["classifier"]))
    named = {"classifier.weight": head["kernel"].T, "classifier.bias": head["bias"]}
    for ours in ("word", "position", "token_type"):
        named[f"bert.embeddings.{ours}_embeddings.weight"] = encoder["embed"][ours]["embedding"]
    for kind, leaf in NORM_LEAVES.items():
        named[f"bert.embeddings.LayerNorm.{kind}"] = encoder["embed"]["norm"][leaf]
    for kind, leaf in LEAVES.items():
        named[f"bert.pooler.dense.{kind}"] = encoder["pooler"][leaf].T
        for layer in range(NUM_LAYERS):
            for theirs, ours in MODULES.items():
                module = encoder["blocks"]
                for name in ours.split("/"):
                    module = module[name]
                name = (NORM_LEAVES if "Norm" in theirs else LEAVES)[kind]
                named[f"bert.encoder.layer.{layer}.{theirs}.{kind}"] = module[name][layer].T
    return named


@pytest.mark.parametrize(
    ("text", "num_labels", "longest"),
    [("0-4", 2, 34), ("0-4", 1, 30), ("0 4", 3, 30), ("0 3-1 4", 2, 34), ("0 {1-3}*2 2*2 4 1", 2, 30)],
)
@pytest.mark.slow
def test_three_steps_equal_torch(text: str, num_labels: int, longest: int) -> None:
    """Padding to one length or two, token types, a batch that is not whole, clipping; five times the usual rate."""
    plan, (encoded, labels) = Plan.parse(text), _examples(num_labels, longest)
    first = first_parameters(tiny_bert(), num_labels, seed=0)
    network = _torch_classifier(num_labels, first["classifier"])
    expected, their_losses = _torch_trained(network, plan, _batches(encoded, labels))
    losses = []
    tuned = tune_encoder(
        *(tiny_bert(), plan, encoded, labels, num_labels, 0, SETTINGS),
        progress=lambda done, loss: losses.append((done, loss)),
    )
    found, before = _in_torch_names(tuned.parameters), _in_torch_names(first)
    assert found.keys() == expected.keys()
    differences, moved = [], 0.0
    for name, value in found.items():
        # A key's bias shifts all of a query's scores alike: its gradient is rounding, which Adam blows up.
        tolerance = 3e-4 if name.endswith("key.bias") else 1e-5
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)
        differences.append(np.abs(value - expected[name]).ravel())
        moved = max(moved, np.abs(value - before[name]).max())
    assert moved > 1e-4, "parameters that moved so little would show no difference"
    assert np.quantile(np.concatenate(differences), 0.98) < 1e-6
    assert losses == [(3, pytest.approx(their_losses.mean(), rel=1e-5))]


@pytest.mark.parametrize("of_classifier", [None, 0.5])
@pytest.mark.slow
def test_dropout_is_where_transformers_has_it(of_classifier: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same masks in both, made from nothing but a shape, at rates of their own."""

    def kept(shape: tuple[int, ...], rate: float) -> np.ndarray:
        return (np.random.default_rng(shape).random(shape) >= rate) / (1 - rate)

    def theirs(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * torch.tensor(kept(tuple(x.shape), p), dtype=x.dtype) if training else x

    def ours(x: jax.Array, drawn: Dropout | None) -> jax.Array:
        return x if drawn is None else x * kept(x.shape, drawn.rate).astype(x.dtype)

    encoded, labels = _examples(2, 32)
    encoded = Encoded(tuple(np.resize(text, 32) for text in encoded.tokens), tuple(np.zeros((EXAMPLES, 32), np.int32)))
    (batch,) = next(_batches(encoded, labels)(0))
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": of_classifier}
    model = dataclasses.replace(tiny_bert(), config=dataclasses.replace(tiny_bert().config, **rates))
    parameters = first_parameters(model, 2, seed=0)
    network = _torch_classifier(2, parameters["classifier"], hidden=0.3, attention=0.2, classifier=of_classifier)
    monkeypatch.setattr("torch.nn.functional.dropout", theirs)
    for module in ("models.encoder", "models.attention", "training.planned"):
        monkeypatch.setattr(f"jaxpaint.{module}.dropout", ours)
    classifier = planned_classifier(model, model.full_plan)
    on_device = jax.device_put(batch)
    with_dropout = float(classifier(parameters, on_device, jax.random.key(0)))
    assert with_dropout == pytest.approx(network(**_torch_inputs(batch)).loss.item(), rel=1e-5)
    assert abs(with_dropout - float(classifier(parameters, on_device, None))) > 1e-3


@pytest.mark.parametrize("impl", ["threefry2x32", GENERATOR])
@pytest.mark.few(1)
def test_dropout_drops_its_share_independently(impl: str) -> None:
    keys, rate, size = jax.random.split(jax.random.key(3, impl=impl), 8), 0.1, 100_001
    rows = np.asarray(jax.vmap(lambda key: dropout(jnp.ones(size), Dropout(rate, key)))(keys))
    assert set(np.unique(rows)) == {0.0, np.float32(1 / (1 - rate))}
    dropped = rows == 0
    assert np.abs(dropped.mean(axis=1) - rate).max() < 4 * (rate * (1 - rate) / size) ** 0.5
    correlation = np.corrcoef(np.concatenate([dropped[:, :-1], dropped[:, 1:]]))  # of masks, and of neighbours
    assert np.abs(correlation - np.eye(16)).max() < 5 / size**0.5
    x = jnp.arange(1.0, 7.0)
    back = jax.grad(lambda x: (dropout(x, Dropout(0.5, keys[0])) * jnp.arange(6.0)).sum())(x)
    np.testing.assert_allclose(back * x, dropout(x, Dropout(0.5, keys[0])) * jnp.arange(6.0), rtol=1e-6)
    assert dropout(x, None) is x
    assert dropout(x, Dropout(0.0, keys[0])) is x


def test_parts_hold_a_batch_once_the_shortest_examples_first() -> None:
    encoded, labels = _examples(2, 70, 41)
    whole, parted = (
        list(labelled_batches(encoded, labels, *shuffled(41, 20, 1, seed=1), part_rows)(0)) for part_rows in (None, 8)
    )

    def rows(batches: tuple[Batch, ...]) -> list[Any]:
        found = [
            (float(batch.weights[row]), int(batch.targets[row]), batch.inputs.tokens[row][:length].tolist())
            for batch in batches
            for row, length in enumerate(batch.inputs.lengths)
            if batch.weights[row] > 0
        ]
        return sorted(found)

    assert [len(parts) for parts in whole] == [1, 1, 1]
    assert [[part.inputs.tokens.shape for part in parts][-1][0] for parts in parted] == [8, 8, 8]
    assert [len(parts) for parts in parted] == [3, 3, 1], "a part without examples is left out"
    for one, other in zip(whole, parted, strict=True):
        assert rows(one) == rows(other)
        widths = [part.inputs.tokens.shape[1] for part in other]
        assert [*sorted(widths)[:-1], one[0].inputs.tokens.shape[1]] == widths
    assert parted[0][0].inputs.tokens.shape[1] < parted[0][-1].inputs.tokens.shape[1]


def _difference(one: Any, other: Any) -> float:
    return float(jnp.abs(ravel_pytree(one)[0] - ravel_pytree(other)[0]).max())


@pytest.mark.slow
def test_a_loss_with_dropout_depends_on_the_key_and_is_the_same_with_remat() -> None:
    (batch,), plan = next(_batches(*_examples())(0)), Plan.parse("0 {1-3}*2 4")
    parameters = first_parameters(tiny_bert(), 2, seed=0)
    keys = [jax.random.key(number, impl=GENERATOR) for number in range(2)]
    kept, again = (
        jax.jit(jax.value_and_grad(planned_classifier(tiny_bert(), plan, 0.5, remat=remat))) for remat in (False, True)
    )
    loss, gradient = kept(parameters, batch, keys[0])
    assert abs(loss - kept(parameters, batch, keys[1])[0]) > 1e-3
    assert _difference(again(parameters, batch, keys[0])[1], gradient) < 1e-6
    assert _difference(kept(parameters, batch, keys[1])[1], gradient) > 1e-3


SEVERAL_DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
import numpy as np
from flax import nnx, traverse_util
import tests.training.test_classifiers as alone
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import from_parameters
from jaxpaint.models.sharding import device_mesh, parameter_sharding

mesh = device_mesh(2)
assert dict(mesh.shape) == {"data": 2, "model": 2}
place, one = parameter_sharding(mesh), alone.tiny_bert()
flat = traverse_util.flatten_dict(nnx.to_pure_dict(one.state), sep="/")
spread = {name: jax.device_put(value, place(name, value.shape)) for name, value in flat.items()}
many = from_parameters(one.config, traverse_util.unflatten_dict(spread, sep="/"), mesh=mesh)
encoded, labels = alone._examples()
arguments = (alone.Plan.parse("0 {1-3} 4"), encoded, labels, 2, 0)
expected, found = (alone.tune_encoder(model, *arguments, alone.SETTINGS).logits(encoded) for model in (one, many))
np.testing.assert_allclose(found, expected, atol=1e-5)
assert np.ptp(found[:, 0]) > 1e-3
try:
    alone.tune_encoder(many, *arguments, alone.dataclasses.replace(alone.SETTINGS, batch_size=7))
except UserError as error:
    assert "2 devices" in str(error)
else:
    raise AssertionError("7 examples on 2 devices")
"""


@pytest.mark.slow
def test_several_devices_train_as_one() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SEVERAL_DEVICES, str(Path(__file__).parents[2])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class _Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 2)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    settings = dataclasses.replace(SETTINGS, epochs=4, dropout=0.1)
    steps: list[int] = []

    def run(stop: int | None, folder: str) -> Any:
        def progress(done: int, loss: float) -> None:
            steps.append(done)
            if stop is not None and done >= stop:
                raise _Killed

        checkpoints = TrainingCheckpoints(tmp_path / folder)
        encoded, labels = _examples()
        return tune_encoder(
            *(tiny_bert(), Plan.parse("0-4"), encoded, labels, 2, 0, settings),
            checkpoints=checkpoints,
            progress=progress,
        )

    undisturbed = run(None, "one").parameters
    assert steps == [2, 4, 6, 8, 10, 12]
    steps.clear()
    for stop in (6, 10):
        with pytest.raises(_Killed):
            run(stop, "other")
    resumed = run(None, "other").parameters
    assert steps == [2, 4, 6, 6, 8, 10, 10, 12], "what was kept is not done again"
    assert _difference(resumed, undisturbed) == 0.0


@pytest.mark.slow
def test_a_loss_that_explodes_is_told_and_the_model_is_left_as_it_was() -> None:
    encoded, labels = _examples()
    before = ravel_pytree(nnx.to_pure_dict(tiny_bert().state))[0].copy()
    with pytest.raises(FloatingPointError, match="loss is nan"):
        tune_encoder(
            tiny_bert(), Plan.parse("0-4"), encoded, labels, 2, 0, dataclasses.replace(SETTINGS, learning_rate=1e30)
        )
    np.testing.assert_array_equal(ravel_pytree(nnx.to_pure_dict(tiny_bert().state))[0], before)


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters() -> None:
    model = tiny_bert()
    low = dataclasses.replace(model, state=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.state))
    encoded, labels = _examples()
    tuned = tune_encoder(low, Plan.parse("0 {1-3} 4"), encoded, labels, 2, 0, SETTINGS)
    assert {leaf.dtype for leaf in jax.tree.leaves(tuned.parameters)} == {jnp.dtype("float32")}
    wide = evaluate(planned_classifier(model, Plan.parse("0 {1-3} 4")), tuned.parameters, encoded)
    narrow = tuned.logits(encoded)
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.2 * np.abs(wide).max()


def _products(jaxpr: Any) -> Iterator[str]:
    """The types that matrix products take."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield str(np.result_type(*(operand.aval.dtype for operand in equation.invars)))
        for inner in jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.slow
def test_layers_in_their_order_need_no_copy() -> None:
    """As on accelerators, where they are left as they are."""
    model = tiny_bert()
    (batch,) = next(_batches(*_examples())(0))
    given = first_parameters(model, 2, seed=0), jax.device_put(batch), jax.random.key(0)
    copied = dataclasses.replace(planned_classifier(model, model.full_plan), at_once=True)
    assert copied.layers is not None
    losses = jax.tree.leaves(jax.value_and_grad(copied)(*given))
    for found, expected in zip(
        jax.tree.leaves(jax.value_and_grad(dataclasses.replace(copied, layers=None))(*given)), losses, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_layers_are_computed_in_it() -> None:
    """All but the pooler and the classifier."""
    model = tiny_bert()
    low = dataclasses.replace(model, state=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.state))
    (batch,) = next(_batches(*_examples())(0))
    loss = planned_classifier(low, Plan.parse("0 1 4"))
    traced = jax.make_jaxpr(loss)(first_parameters(model, 2, seed=0), batch, jax.random.key(0))
    found = Counter(_products(traced.jaxpr))
    assert found["bfloat16"] >= 8
    assert found["float32"] == 2


def test_padding_and_batches_change_no_logits() -> None:
    encoded, _ = _examples(2, 34)
    plan, parameters = Plan.parse("0 4 2"), first_parameters(tiny_bert(), 2, seed=0)
    logits = evaluate(planned_classifier(tiny_bert(), plan), parameters, encoded)
    for example in (0, 7):
        tokens, types = encoded.tokens[example][None], encoded.token_types[example][None]
        pooled = tiny_bert().pooled(tokens, plan, None, types)
        np.testing.assert_allclose(logits[example], (pooled @ parameters["classifier"]["kernel"])[0], atol=1e-5)


def test_weights_decay_and_biases_do_not() -> None:
    decaying = AdamW(1, 1e-2, weight_decay=0.1).transformation()
    parameters = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "b": {"scale": jnp.ones(2)}}
    updates, _ = decaying.update(jax.tree.map(jnp.zeros_like, parameters), decaying.init(parameters), parameters)
    assert updates["a"]["kernel"].tolist() == pytest.approx([-1e-3, -1e-3])
    assert updates["a"]["bias"].tolist() == updates["b"]["scale"].tolist() == [0.0, 0.0]

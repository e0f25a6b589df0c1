"""Fine-tuning with a plan in place: a decoder on answers, or an encoder on labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import on_host
from jaxpaint.base.precision import require_float_weights
from jaxpaint.engine.model import Model, from_parameters, plain_parameters
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import shards
from jaxpaint.models import checkpoint, with_layers
from jaxpaint.models.family import require_lm_head, require_pooler
from jaxpaint.models.sharding import placed, rows
from jaxpaint.plans.nodes import map_layers
from jaxpaint.plans.plan import Plan
from jaxpaint.training.answers import TrainingExamples
from jaxpaint.training.batches import REQUEST_STEP, answer_batches, labelled_batches, shuffled
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.features import InRows
from jaxpaint.training.memory import HowToTrain, how_to_train
from jaxpaint.training.padded import LABELLED_STEP, row_length
from jaxpaint.training.planned import (
    Parameters,
    Planned,
    evaluate,
    first_parameters,
    planned_classifier,
    planned_decoder,
)
from jaxpaint.training.settings import TrainingSettings
from jaxpaint.training.trainer import AdamW, train

# XLA on a CPU compiles this one to a single pass over memory, and JAX's default generator to a loop of several.
GENERATOR = "rbg"

Progress = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """A model of the layers that a plan uses, after fine-tuning, and the plan over them."""

    model: Model
    plan: Plan


def tune_decoder(
    model: Model | Source,
    parameters: Mapping[str, Any],
    plan: Plan,
    examples: TrainingExamples,
    settings: TrainingSettings,
    *,
    how: HowToTrain | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Progress | None = None,
) -> TunedDecoder:
    """Trains a copy of the parameters that the plan uses, on the answers of `examples`, the plan in place.

    `model` says the architecture and what is computed in; `parameters` are all of its own in float32, on the host
    (`host_parameters`). The settings have one seed. `how` is by default what fits the device; from `checkpoints` a run
    that was ended goes on; `progress` is called with the number of steps done and the latest mean loss.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: an encoder, integer weights, a device whose memory is too small, or a checkpoint that cannot be
            written or read.
        FloatingPointError: the loss is not finite.
    """
    require_lm_head(model.config, "fine-tuning on answers")
    require_float_weights(model.weights)
    _require_shared(settings, model)
    own, layers = own_layers(model.checked_plan(plan))
    first = of_layers(parameters, layers)
    count = sum(leaf.size for leaf in jax.tree.leaves(first))
    config = with_layers(model.config, layers)
    if how is None:
        longest = row_length(max(len(request.tokens) for request in examples.requests), REQUEST_STEP)
        how = how_to_train(config, own, model.dtype.itemsize, settings.batch_size, longest, count)
    (seed,) = settings.seeds
    order = shuffled(len(examples), settings.batch_size, settings.epochs, seed)
    batches = answer_batches(examples.requests, *order, settings.batch_size if model.mesh else how.part_rows)
    planned = planned_decoder(config, model.dtype, own, remat=how.remat, mesh=model.mesh)
    first = placed(first, model.mesh) if model.mesh else first
    optimizer, key = AdamW.of(settings, len(batches)), jax.random.key(seed, impl=GENERATOR)
    with explained(plan, count):
        trained = train(
            *(planned, first, batches, optimizer, key),
            place=lambda batch: jax.device_put(batch, model.mesh and rows(model.mesh)),
            checkpoints=checkpoints,
            progress=progress,
        )
    lowered = jax.tree.map(lambda leaf: leaf.astype(model.dtype), trained)
    return TunedDecoder(from_parameters(config, lowered, store=model.store, mesh=model.mesh), own)


@dataclass(frozen=True, eq=False)
class TunedEncoder:
    """A model under a plan after fine-tuning; `parameters` hold the `encoder`'s and the `classifier`'s, float32."""

    model: Model
    classifier: Planned
    parameters: Parameters

    def logits(self, encoded: InRows) -> Float[np.ndarray, "examples labels"]:
        """Logits of examples, the plan in place."""
        return evaluate(self.classifier, self.parameters, encoded, self.model.mesh)


def tune_encoder(
    model: Model,
    plan: Plan,
    encoded: InRows,
    labels: np.ndarray,
    num_labels: int,
    seed: int,
    settings: TrainingSettings,
    *,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Progress | None = None,
) -> TunedEncoder:
    """Trains a copy of the model's parameters and a new classifier, the plan in place.

    `num_labels` 1 is a regression of float labels, else `labels` are classes. The seed, one of the settings', decides
    the order of examples, the classifier's first weights and dropout, the same ones under every plan. Arguments and
    errors are otherwise as `tune_decoder`'s, and UserError for a model without a pooler or batches that its devices
    cannot share.
    """
    require_pooler(model.config, trained=True)
    require_float_weights(model.weights)
    _require_shared(settings, model)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.state))
    size, length = model.dtype.itemsize, row_length(settings.max_length, LABELLED_STEP)
    # The loaded model, in the type that is computed in as a copy too, and the plan's own layers where those are copied.
    beside = count * (2 * size + 4)
    checked = model.checked_plan(plan)
    part_rows, remat = how_to_train(
        model.config, checked, size, settings.batch_size, length, count, beside=beside, dropout=settings.dropout != 0
    )
    order = shuffled(len(encoded), settings.batch_size, settings.epochs, seed)
    # Devices that share a batch take all of it.
    batches = labelled_batches(encoded, labels, *order, settings.batch_size if model.mesh else part_rows)
    classifier = planned_classifier(model, checked, settings.dropout, remat=remat)
    optimizer, key = AdamW.of(settings, len(batches)), jax.random.key(seed, impl=GENERATOR)
    with explained(plan, count):
        trained = train(
            classifier,
            first_parameters(model, num_labels, seed),  # held by no one else: their memory is free after a step
            batches,
            optimizer,
            key,
            place=lambda batch: jax.device_put(batch, model.mesh and rows(model.mesh)),
            checkpoints=checkpoints,
            progress=progress,
        )
    return TunedEncoder(model, classifier, trained)


def _require_shared(settings: TrainingSettings, model: Model | Source) -> None:
    if settings.batch_size % shards(model):
        raise UserError(f"batch_size is {settings.batch_size}, which {shards(model)} devices cannot share evenly")


@contextmanager
def explained(plan: Plan, count: int) -> Iterator[None]:
    """Training so many parameters, where the device's memory may end."""
    try:
        yield
    except RuntimeError as error:  # jax.errors.JaxRuntimeError
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device is out of memory fine-tuning plan {plan}: its {count / 1e9:.2f}e9 parameters alone take "
            f"{count * 16 / 2**30:.0f} GiB; use a device with more memory, or a plan of fewer layers"
        ) from error


# --- The parameters of the layers that a plan uses: only these are trained, and only these take memory -----


def own_layers(plan: Plan) -> tuple[Plan, tuple[int, ...]]:
    """`(plan, layers)`: the plan over the layers that it uses, counted as it first names them, and which those are."""
    place: dict[int, int] = {}
    own = map_layers(plan.root, lambda index: place.setdefault(index, len(place)))
    return Plan.of(own), tuple(place)


def host_parameters(model: Model | Source) -> dict[str, Any]:
    """All of a model's parameters in float32 on the host: read from its store, where it has one.

    Raises UserError for a damaged store.
    """
    if isinstance(model, Model) and model.store is None:
        return jax.tree.map(lambda leaf: on_host(leaf).astype(np.float32, copy=False), plain_parameters(model))
    assert model.store is not None
    try:
        place = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to know accelerators alone
        place = None
    return jax.tree.map(np.asarray, checkpoint.restore(model.store, dtype=jnp.float32, sharding=place))


def of_layers(parameters: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, Any]:
    """`parameters` with a stack of these layers alone."""
    return {**parameters, "blocks": jax.tree.map(lambda leaf: leaf[np.array(layers)], parameters["blocks"])}

"""Fine-tuning with a plan in place: a decoder on answers, or an encoder on labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model, from_parameters, require_pooler
from jaxpaint.engine.source import Source
from jaxpaint.models import with_layers
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.plans.plan import Plan
from jaxpaint.training.answers import TrainingExamples
from jaxpaint.training.batches import (
    LABELLED_STEP,
    REQUEST_STEP,
    Batches,
    answer_batches,
    labelled_batches,
    row_length,
    shuffled,
)
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.features import Encoded
from jaxpaint.training.memory import HowToTrain, how_to_train
from jaxpaint.training.parameters import of_layers, own_layers
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
    """Trains a copy of the parameters that the plan uses, on the answers of `examples`.

    Args:
        model: Says the architecture and what is computed in; its parameters are not looked at.
        parameters: All of its parameters in float32, on the host (`host_parameters`). They are left as they are.
        plan: In place while training.
        examples: With right answers.
        settings: How to train, with one seed.
        how: Rows at a time and whether insides are kept (default: what fits the device).
        checkpoints: Where a run that was ended goes on from.
        progress: Called with the number of steps done and the latest mean loss.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: an encoder, a device whose memory is too small, or a checkpoint that cannot be written or read.
        FloatingPointError: the loss is not finite.
    """
    model.require_decoder("fine-tuning on answers")
    own, layers = own_layers(model.checked_plan(plan))
    first = of_layers(parameters, layers)
    count = sum(leaf.size for leaf in jax.tree.leaves(first))
    config = with_layers(model.config, layers)
    if how is None:
        longest = row_length(max(len(request.tokens) for request in examples.requests), REQUEST_STEP)
        how = how_to_train(config, own, model.dtype.itemsize, settings.batch_size, longest, count)
    (seed,) = settings.seeds
    order = shuffled(len(examples), settings.batch_size, settings.epochs, seed)
    batches = answer_batches(examples.requests, *order, how.part_rows)
    planned = planned_decoder(config, model.dtype, own, remat=how.remat)
    trained = _tuned(planned, lambda: first, batches, settings, seed, None, plan, count, checkpoints, progress)
    lowered = jax.tree.map(lambda leaf: leaf.astype(model.dtype), trained)
    return TunedDecoder(from_parameters(config, lowered, store=model.store), own)


@dataclass(frozen=True, eq=False)
class TunedEncoder:
    """A model under a plan after fine-tuning; `parameters` hold the `encoder`'s and the `classifier`'s, float32."""

    model: Model
    classifier: Planned
    parameters: Parameters

    def logits(self, encoded: Encoded) -> Float[np.ndarray, "examples labels"]:
        """Logits of examples, the plan in place."""
        return evaluate(self.classifier, self.parameters, encoded, self.model.mesh)


def tune_encoder(
    model: Model,
    plan: Plan,
    encoded: Encoded,
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
    require_pooler(model)
    shards = model.mesh.shape[DATA] if model.mesh else 1
    if settings.batch_size % shards:
        raise UserError(f"batch_size is {settings.batch_size}, which {shards} devices cannot share evenly")
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
    trained = _tuned(
        *(classifier, lambda: first_parameters(model, num_labels, seed), batches, settings, seed, model.mesh),
        *(plan, count, checkpoints, progress),
    )
    return TunedEncoder(model, classifier, trained)


def _tuned(
    planned: Planned,
    first: Callable[[], Parameters],
    batches: Batches,
    settings: TrainingSettings,
    seed: int,
    mesh: Any,
    plan: Plan,
    count: int,
    checkpoints: TrainingCheckpoints | None,
    progress: Progress | None,
) -> Parameters:
    """The trained parameters. `first` gives those to begin with, which nothing here holds on to."""
    try:
        return train(
            planned,
            first(),
            batches,
            AdamW.of(settings, len(batches)),
            jax.random.key(seed, impl=GENERATOR),
            place=lambda batch: jax.device_put(batch, mesh and rows(mesh)),
            checkpoints=checkpoints,
            progress=progress,
        )
    except RuntimeError as error:  # jax.errors.JaxRuntimeError
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device is out of memory fine-tuning plan {plan}: its {count / 1e9:.2f}e9 parameters alone take "
            f"{count * 16 / 2**30:.0f} GiB; use a device with more memory, or a plan of fewer layers"
        ) from error

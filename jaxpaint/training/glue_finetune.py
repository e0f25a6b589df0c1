"""Fine-tuning an encoder with a plan in place on one task, for one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from jaxpaint.base.budgets import device_memory, host_memory, on_cpu
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.plans.plan import Plan
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.features import Encoded
from jaxpaint.training.glue_batches import ROW_STEP, ShuffledBatches
from jaxpaint.training.glue_classifier import (
    Parameters,
    PlannedClassifier,
    evaluate,
    first_parameters,
    planned_classifier,
)
from jaxpaint.training.glue_settings import FinetuneSettings
from jaxpaint.training.trainer import AdamW, train
from jaxpaint.training.training_order import shuffled

# XLA on a CPU compiles this one to a single pass over memory, and JAX's default generator to a loop of several.
GENERATOR = "rbg"
PART_ROWS = 8  # of a batch at most, at a time on a CPU: fewer are slower, and with more there is more padding


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A model under a plan after fine-tuning; `parameters` hold the `encoder`'s and the `classifier`'s, float32."""

    model: Model
    classifier: PlannedClassifier
    parameters: Parameters

    def logits(self, encoded: Encoded) -> Float[np.ndarray, "examples labels"]:
        """Logits of examples, the plan in place."""
        return evaluate(self.classifier, self.parameters, encoded, self.model.mesh)


def finetune(
    model: Model,
    plan: Plan,
    encoded: Encoded,
    labels: np.ndarray,
    num_labels: int,
    seed: int,
    settings: FinetuneSettings,
    *,
    remat: bool | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Finetuned:
    """Trains a copy of the model's parameters and a new classifier, the plan in place.

    `num_labels` 1 is a regression of float labels, else `labels` are classes. The seed decides the order of examples,
    the classifier's first weights and dropout, the same ones under every plan. `remat` computes layers' insides again
    on the way back rather than keep them (default: where they would not fit the device). `progress` is called with the
    number of steps done and the latest mean loss.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: a model without a pooler, batches that the model's devices cannot share, or a checkpoint that cannot
            be written or read.
        FloatingPointError: the loss is not finite.
    """
    shards = model.mesh.shape[DATA] if model.mesh else 1
    if settings.batch_size % shards:
        raise UserError(f"batch_size is {settings.batch_size}, which {shards} devices cannot share evenly")
    in_parts = on_cpu() and not model.mesh
    part_rows = min(PART_ROWS, settings.batch_size) if in_parts else settings.batch_size
    order = shuffled(len(encoded), settings.batch_size, settings.epochs, seed)
    batches = ShuffledBatches(encoded, labels, *order, part_rows)
    if remat is None:
        remat = _kept_bytes(model, plan, part_rows, settings.max_length) > _free_bytes(model)
    classifier = planned_classifier(model, plan, settings.dropout, remat=remat)
    parameters = train(
        classifier,
        first_parameters(model, num_labels, seed),
        batches,
        AdamW(len(batches), settings.learning_rate, settings.max_grad_norm, settings.weight_decay),
        jax.random.key(seed, impl=GENERATOR),
        place=lambda batch: jax.device_put(batch, model.mesh and rows(model.mesh)),
        checkpoints=checkpoints,
        progress=progress,
    )
    return Finetuned(model, classifier, parameters)


def _kept_bytes(model: Model, plan: Plan, rows: int, max_length: int) -> int:
    """About what is kept of all layers' insides for the way back, where rows are widest."""
    config = model.config
    length = -(-max_length // ROW_STEP) * ROW_STEP
    size = model.dtype.itemsize
    # Per token: inputs and outputs of products, norms in float32, masks. Per pair of tokens and head: the softmax's
    # exponentials in float32, what dropout leaves of them, its mask.
    of_token = config.hidden_size * (9 * size + 18) + config.intermediate_size * 4 * size
    of_pair = config.num_attention_heads * (size + 5)
    return plan.cost * rows * length * (of_token + length * of_pair)


def _free_bytes(model: Model) -> float:
    """The device's memory, less parameters, gradients and AdamW's moments; of a host, half of what it has.

    A plan's own layers may be a copy, and have gradients of their own.
    """
    if (memory := device_memory()) is None:
        return 0.5 * host_memory()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.state))
    return 0.8 * memory - parameters * (6 * 4 + 2 * model.dtype.itemsize)

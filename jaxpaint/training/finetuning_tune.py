"""Fine-tuning a decoder with a plan in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.source import Source
from jaxpaint.models import with_layers
from jaxpaint.plans.plan import Plan
from jaxpaint.training.answers import TrainingExamples
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.finetuning_batches import AnswerBatches, row_length
from jaxpaint.training.finetuning_loss import planned_decoder
from jaxpaint.training.memory import HowToTrain, how_to_train
from jaxpaint.training.parameters import of_layers, own_layers
from jaxpaint.training.settings import FinetuneSettings
from jaxpaint.training.trainer import AdamW, train
from jaxpaint.training.training_order import shuffled


@dataclass(frozen=True, eq=False)
class Tuned:
    """A model of the layers that a plan uses, after fine-tuning, and the plan over them."""

    model: Model
    plan: Plan


def tune(
    model: Model | Source,
    parameters: Mapping[str, Any],
    plan: Plan,
    examples: TrainingExamples,
    settings: FinetuneSettings,
    *,
    how: HowToTrain | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Trains a copy of the parameters that the plan uses, on the answers of `examples`.

    Args:
        model: Says the architecture and what is computed in; its parameters are not looked at.
        parameters: All of its parameters in float32, on the host (`host_parameters`). They are left as they are.
        plan: In place while training.
        examples: With right answers.
        settings: How to train.
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
    longest = row_length(examples.requests)
    how = how or how_to_train(config, own, model.dtype.itemsize, settings.batch_size, longest, count)
    order = shuffled(len(examples), settings.batch_size, settings.epochs, settings.seed)
    batches = AnswerBatches(examples.requests, *order, how.part_rows)
    try:
        trained = train(
            planned_decoder(config, model.dtype, own, remat=how.remat),
            first,
            batches,
            AdamW(len(batches), settings.learning_rate, settings.max_grad_norm, settings.weight_decay),
            jax.random.key(settings.seed),
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
    lowered = jax.tree.map(lambda leaf: leaf.astype(model.dtype), trained)
    return Tuned(from_parameters(config, lowered, store=model.store), own)

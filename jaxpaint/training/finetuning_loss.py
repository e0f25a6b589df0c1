"""A decoder with a plan in place: the cross-entropy of answers' tokens, as a function of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.budgets import budgets, on_cpu
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.inputs import Inputs
from jaxpaint.engine.model import layer_stack, start
from jaxpaint.models import abstract_model
from jaxpaint.models.family import Config
from jaxpaint.plans.plan import Plan
from jaxpaint.training.finetuning_batches import Batch

Parameters: TypeAlias = dict[str, Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["layers"],
    meta_fields=["graphdef", "form", "dtype", "at_once", "remat"],
)
@dataclass(frozen=True)
class PlannedDecoder:
    """What is compiled for a plan: plans of one form (`jaxpaint.engine.compiled.with_own_layers`) share code.

    It is the loss that the trainer asks for. Parameters are kept in float32, layers and head are computed in
    `dtype`. `layers` are the places of the form's layers in the stack, None where they lie in the form's order.
    """

    layers: Int[Array, " leaves"] | None
    graphdef: Any
    form: Plan
    dtype: Any
    at_once: bool
    remat: bool

    def __call__(self, parameters: Parameters, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        """The batch's weighted cross-entropy at its scored positions, float32; there is nothing to draw with a key."""
        x = self.states(parameters, batch)
        chosen = jnp.take_along_axis(x, batch.scored[..., None], axis=1).reshape(-1, x.shape[-1])
        # The blocks cast layer by layer; what the head reads is small enough to be cast at once.
        head = nnx.merge(self.graphdef, jax.tree.map(lambda leaf: leaf.astype(self.dtype), parameters))
        return _cross_entropy(head, chosen, jnp.ravel(batch.targets), jnp.ravel(batch.weights))

    def states(self, parameters: Parameters, batch: Batch) -> Float[Array, "B S D"]:
        """Hidden states after the plan, before the final norm, in `dtype`."""
        model = nnx.merge(self.graphdef, parameters)
        x, context = start(model, Inputs(batch.tokens, batch.lengths, None))
        block, stacked = layer_stack(model)

        def layer(parameters: Any, x: Array, context: Any, key: Array | None) -> Array:
            return block(parameters, x, context)

        how = {"at_once": self.at_once, "unroll": not self.at_once, "remat": self.remat}
        return stack.run_training(layer, stacked, self.form, self.layers, x.astype(self.dtype), context, None, **how)


def planned_decoder(config: Config, dtype: Any, plan: Plan, *, remat: bool = False) -> PlannedDecoder:
    """A decoder of a plan's layers, in the order in which the plan first names them, ready to train.

    `plan` counts layers in that stack (`jaxpaint.training.parameters.own_layers`).
    """
    form, layers = stack.with_own_layers(plan)
    module = abstract_model(config, jnp.float32)
    for _, part in nnx.iter_modules(module):
        if isinstance(part, nnx.Linear | nnx.LayerNorm | nnx.RMSNorm):
            part.dtype = dtype
    in_order = form == plan
    at_once = not on_cpu()
    return PlannedDecoder(None if in_order else layers, nnx.split(module)[0], form, dtype, at_once, remat)


def _cross_entropy(
    model: Any, hidden: Float[Array, "M D"], targets: Int[Array, " M"], weights: Float[Array, " M"]
) -> Float[Array, ""]:
    """The weighted sum of the targets' losses; logits of a part of the positions exist at a time."""

    def of_part(hidden: Array, targets: Array, weights: Array) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model.logits(hidden), targets)
        return (weights * losses).sum()

    parts = -(-len(targets) * 4 * model.config.vocab_size // budgets().training_logits_bytes)
    if parts == 1:
        return of_part(hidden, targets, weights)
    size = -(-len(targets) // parts)
    padding = parts * size - len(targets)
    hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(parts, size, -1)
    targets, weights = (jnp.pad(each, (0, padding)).reshape(parts, size) for each in (targets, weights))

    def one_more(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + jax.checkpoint(of_part)(*part), None

    return jax.lax.scan(one_more, jnp.zeros(()), (hidden, targets, weights))[0]

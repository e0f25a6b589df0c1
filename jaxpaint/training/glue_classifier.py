"""An encoder with a plan in place and a classifier on its pooled output, as a function of its parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.budgets import budgets, on_cpu
from jaxpaint.base.compilation import jit
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.inputs import Inputs
from jaxpaint.engine.model import Model, layer_stack, require_pooler, start
from jaxpaint.engine.rows import right_padded
from jaxpaint.models import abstract_model, checkpoint
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.sharding import DATA, parameter_sharding, rows
from jaxpaint.plans.plan import Plan
from jaxpaint.training.features import Encoded
from jaxpaint.training.glue_batches import Batch
from jaxpaint.training.heads import classifier_dropout, initial_head

Parameters: TypeAlias = dict[str, Any]
SHORTEST_ROW = 32


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["layers"],
    meta_fields=["graphdef", "form", "dtype", "at_once", "remat"],
)
@dataclass(frozen=True)
class PlannedClassifier:
    """What is compiled for a plan: plans of one form (`jaxpaint.engine.compiled.with_own_layers`) share code.

    It is the loss that the trainer asks for. `layers` is None where they are the stack's, in its order, and
    need not be copied. Parameters are kept in float32, layers are computed in `dtype`.
    """

    layers: Int[Array, " leaves"] | None
    graphdef: Any
    form: Plan
    dtype: Any
    at_once: bool
    remat: bool

    def logits(self, parameters: Parameters, inputs: Inputs, key: Array | None = None) -> Float[Array, "B labels"]:
        """Logits in float32. With a key, dropout at the rates of the model's config, where transformers has it."""
        model = nnx.merge(self.graphdef, parameters["encoder"])
        before, within, after = (None,) * 3 if key is None else jax.random.split(key, 3)
        x, context = start(model, inputs)
        x = _dropped(x, model.config.hidden_dropout_prob, before).astype(self.dtype)
        block, stacked = layer_stack(model)
        how = {"at_once": self.at_once, "unroll": not self.at_once, "remat": self.remat}
        x = stack.run_training(block, stacked, self.form, self.layers, x, context, within, **how)
        pooled = _dropped(model.pooled(x.astype(jnp.float32)), classifier_dropout(model.config), after)
        return pooled @ parameters["classifier"]["kernel"] + parameters["classifier"]["bias"]

    def __call__(self, parameters: Parameters, batch: Batch, key: Array | None) -> Float[Array, ""]:
        """The batch's loss: squared error of a regression (one label), else cross-entropy."""
        logits = self.logits(parameters, batch.inputs, key)
        if logits.shape[-1] == 1:
            losses = jnp.square(logits[:, 0] - batch.labels)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return (batch.weights * losses).sum()


def planned_classifier(
    model: Model, plan: Plan, rate: float | None = None, *, remat: bool = False
) -> PlannedClassifier:
    """The model under a plan, ready to train; `rate` replaces all dropout rates of its config.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: a model without a pooler.
    """
    require_pooler(model)
    plan = model.checked_plan(plan)
    form, layers = stack.with_own_layers(plan)
    config: Any = model.config
    config = dataclasses.replace(config, has_masked_lm_head=False)
    if rate is not None:
        config = dataclasses.replace(
            config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate
        )
    module = abstract_model(config, jnp.float32)
    for _, part in nnx.iter_modules(module.blocks):
        if isinstance(part, nnx.Linear | nnx.LayerNorm):
            part.dtype = model.dtype
    at_once = not on_cpu()
    as_they_are = at_once and form == plan  # on a CPU code shared with other orders is worth more
    return PlannedClassifier(None if as_they_are else layers, nnx.split(module)[0], form, model.dtype, at_once, remat)


def first_parameters(model: Model, num_labels: int, seed: int) -> Parameters:
    """The model's parameters in float32, without a masked-LM head, and a new classifier's.

    Those of a model computed in fewer bits are read again from its store, where it has one.
    """
    encoder = nnx.to_pure_dict(model.state)
    if model.dtype != jnp.float32 and model.store:
        sharding = parameter_sharding(model.mesh) if model.mesh else None
        encoder = checkpoint.restore(model.store, dtype=jnp.float32, sharding=sharding)
    encoder = {name: value for name, value in encoder.items() if name != "masked_lm"}
    encoder = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), encoder)
    return {"encoder": encoder, "classifier": initial_head(seed, model.config.hidden_size, num_labels)}


def evaluate(
    classifier: PlannedClassifier, parameters: Parameters, encoded: Encoded, mesh: Any = None
) -> Float[np.ndarray, "examples labels"]:
    """Logits of examples, without dropout."""
    logits = np.empty((len(encoded), parameters["classifier"]["bias"].size), np.float32)
    shards = mesh.shape[DATA] if mesh else 1
    budget = budgets().classifier_tokens * shards
    found = []
    for batch in right_padded(encoded.tokens, budget, shards, SHORTEST_ROW):
        token_types = np.zeros_like(batch.tokens)
        for row, example in enumerate(batch.texts):
            token_types[row, : batch.lengths[row]] = encoded.token_types[example]
        inputs = Inputs(batch.tokens, batch.lengths, token_types)
        found.append((batch.texts, _logits(classifier, parameters, jax.device_put(inputs, mesh and rows(mesh)))))
    for texts, of_rows in found:
        logits[list(texts)] = np.asarray(of_rows)[: len(texts)]
    return logits


def _dropped(x: Array, rate: float, key: Array | None) -> Array:
    return dropout(x, None if key is None else Dropout(rate, key))


@jit()
def _logits(classifier, parameters, inputs):
    return classifier.logits(parameters, inputs)

"""A plan in place as a function of parameters: the loss of a decoder's answers, or of an encoder's classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxpaint.base.budgets import budgets, on_cpu
from jaxpaint.base.compilation import jit
from jaxpaint.base.hosts import on_host
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import Model, plain_parameters
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.whole import start
from jaxpaint.models import abstract_model, checkpoint
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.family import Config
from jaxpaint.models.fields import names_of
from jaxpaint.models.sharding import DATA, parameter_sharding, rows, with_lanes
from jaxpaint.plans.plan import Plan
from jaxpaint.training.batches import Batch
from jaxpaint.training.features import InRows
from jaxpaint.training.heads import class_logits, classifier_dropout, initial_head, initial_pooler, label_loss

Parameters: TypeAlias = dict[str, Any]
SHORTEST_ROW = 32
# Heads that a new classifier takes the place of: how a config says that there is none, and what they are called.
WITHOUT_HEADS: dict[str, Any] = {"has_masked_lm_head": False, "labels": ()}
HEADS = ("masked_lm", "classifier")
RATES = {"hidden_dropout_prob", "attention_probs_dropout_prob", "mlp_dropout", "classifier_dropout"}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["layers"],
    meta_fields=["loss", "graphdef", "form", "dtype", "at_once", "remat", "mesh"],
)
@dataclass(frozen=True)
class Planned:
    """What is compiled for a plan: plans of one form (`jaxpaint.engine.compiled.with_own_layers`) share code.

    It is the loss that the trainer asks for. Parameters are kept in float32, layers are computed in `dtype`. `layers`
    are the places of the form's layers in the stack, None where they lie in the form's order and need not be copied.
    `mesh` is where lanes share parallel groups (`jaxpaint.engine.lanes`), None without.
    """

    layers: Int[Array, " leaves"] | None
    loss: Callable[[Planned, Parameters, Batch, Array | None], Float[Array, ""]]
    graphdef: Any
    form: Plan
    dtype: Any
    at_once: bool
    remat: bool
    mesh: Mesh | None = None

    def __call__(self, parameters: Parameters, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        """The batch's weighted loss, float32. With a key, dropout at the rates of the model's config."""
        return self.loss(self, parameters, batch, key)

    def states(
        self, model: Any, inputs: Inputs, before: Array | None = None, within: Array | None = None
    ) -> Float[Array, "B S D"]:
        """Hidden states after the plan of a merged model, before the final norm, in `dtype`.

        The keys, which decoders have none of, draw dropout before the layers and within them, as transformers does.
        """
        x, context = start(model, inputs)
        if before is not None:
            x = dropout(x, Dropout(model.config.hidden_dropout_prob, before))
        block, stacked = layer_stack(model)

        def layer(parameters: Any, x: Array, context: Any, key: Array | None, **portion: Any) -> Array:
            inputs = (x, context) if key is None else (x, context, key)
            return block(parameters, *inputs, **portion)

        how: dict[str, Any] = {"at_once": self.at_once, "unroll": not self.at_once, "remat": self.remat}
        what = layer, stacked, self.form, self.layers, x.astype(self.dtype), context, within
        return stack.run_training(*what, **how, mesh=self.mesh)


def planned_decoder(
    config: Config,
    dtype: Any,
    plan: Plan,
    *,
    module: Any = None,
    remat: bool = False,
    mesh: Mesh | None = None,
) -> Planned:
    """A decoder ready to train on answers, computed in `dtype`; `plan` is over its layers alone (`own_layers`).

    `module` is the model with shapes in place of arrays, where it has more than its family's parameters.
    """
    form, layers = stack.with_own_layers(plan)
    module = abstract_model(config, jnp.float32) if module is None else module
    return _planned(module, module, dtype, form, None if form == plan else layers, _answer_loss, remat, mesh)


def planned_classifier(model: Model, plan: Plan, rate: float | None = None, *, remat: bool = False) -> Planned:
    """An encoder with a pooler, which may be new, under a plan, with a classifier; `rate` replaces its dropout."""
    form, layers = stack.with_own_layers(plan)
    encoder: Any = model.config
    names = RATES & names_of(type(encoder)) if rate is not None else ()
    new = {} if encoder.capabilities.pooler else {"has_classifier_dense": True}
    lacking = {name: without for name, without in WITHOUT_HEADS.items() if name in names_of(type(encoder))}
    changes: dict[str, Any] = {**lacking, **dict.fromkeys(names, rate), **new}
    module = abstract_model(dataclasses.replace(encoder, **changes), jnp.float32)
    as_they_are = not on_cpu() and form == plan  # on a CPU code shared with other orders is worth more
    own = None if as_they_are else layers
    return _planned(module, module.blocks, model.dtype, form, own, _class_loss, remat, model.mesh)


def _planned(
    module: Any, lowered: Any, dtype: Any, form: Plan, layers: Any, loss: Any, remat: bool, mesh: Mesh | None
) -> Planned:
    """`lowered` is the part of the module that is computed in `dtype`."""
    for _, part in nnx.iter_modules(lowered):
        if isinstance(part, nnx.Linear | nnx.LayerNorm | nnx.RMSNorm):
            part.dtype = dtype
    return Planned(layers, loss, nnx.split(module)[0], form, dtype, not on_cpu(), remat, with_lanes(mesh))


# --- Answers ----------------------------------------------------------------------------------------------


def _answer_loss(planned: Planned, parameters: Parameters, batch: Batch, key: Array | None) -> Float[Array, ""]:
    """Cross-entropy at the scored positions; there is nothing to draw with a key."""
    x = planned.states(nnx.merge(planned.graphdef, parameters), batch.inputs)
    assert batch.scored is not None
    chosen = jnp.take_along_axis(x, batch.scored[..., None], axis=1).reshape(-1, x.shape[-1])
    # The blocks cast layer by layer; what the head reads is small enough to be cast at once.
    head = nnx.merge(planned.graphdef, jax.tree.map(lambda leaf: leaf.astype(planned.dtype), parameters))
    return _cross_entropy(head, chosen, jnp.ravel(batch.targets), jnp.ravel(batch.weights))


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


# --- A classifier -----------------------------------------------------------------------------------------


def _class_loss(planned: Planned, parameters: Parameters, batch: Batch, key: Array | None) -> Float[Array, ""]:
    return label_loss(_class_logits(planned, parameters, batch.inputs, key), batch.targets, batch.weights)


def _class_logits(
    planned: Planned, parameters: Parameters, inputs: Inputs, key: Array | None = None
) -> Float[Array, "B labels"]:
    """In float32."""
    model = nnx.merge(planned.graphdef, parameters["encoder"])
    before, within, after = (None,) * 3 if key is None else jax.random.split(key, 3)
    rate, first = classifier_dropout(model.config), None
    if after is not None and model.traits.drops_pooler_input:
        of_input, after = jax.random.split(after)
        first = Dropout(rate, of_input)
    states = planned.states(model, inputs, before, within).astype(jnp.float32)
    pooled = model.pooled(states, inputs.lengths, first)
    pooled = dropout(pooled, None if after is None else Dropout(rate, after))
    return class_logits(parameters["classifier"], pooled)


def first_parameters(model: Model, num_labels: int, seed: int) -> Parameters:
    """The model's parameters in float32, without its own head, and a new classifier's; a pooler where it has none.

    Those of a model computed in fewer bits are read again from its store, where it has one.
    """
    encoder = plain_parameters(model)
    if model.dtype != jnp.float32 and model.store:
        sharding = parameter_sharding(model.mesh) if model.mesh else None
        encoder = checkpoint.restore(model.store, dtype=jnp.float32, sharding=sharding)
    encoder = {name: value for name, value in encoder.items() if name not in HEADS}
    encoder = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), encoder)
    width = model.config.hidden_size
    if not model.config.capabilities.pooler:
        encoder["classifier_dense"] = initial_pooler(model.config, jax.random.fold_in(jax.random.key(seed), 1))
    return {"encoder": encoder, "classifier": initial_head(seed, width, num_labels)}


def evaluate(
    classifier: Planned, parameters: Parameters, encoded: InRows, mesh: Any = None
) -> Float[np.ndarray, "examples labels"]:
    """Logits of examples, without dropout."""
    logits = np.empty((len(encoded), parameters["classifier"]["bias"].size), np.float32)
    shards = mesh.shape[DATA] if mesh else 1
    found = []  # nothing waits before all is dispatched
    for batch, inputs in encoded.batches(budgets().classifier_tokens * shards, shards, SHORTEST_ROW):
        found.append((batch.texts, _logits(classifier, parameters, jax.device_put(inputs, mesh and rows(mesh)))))
    for texts, of_rows in found:
        logits[list(texts)] = on_host(of_rows)[: len(texts)]
    return logits


@jit()
def _logits(classifier, parameters, inputs):
    return _class_logits(classifier, parameters, inputs)

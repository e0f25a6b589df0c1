"""Classifiers on frozen features: those of all plans and seeds are trained together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.models import abstract_parameters
from jaxpaint.training.batches import shuffled
from jaxpaint.training.settings import TrainingSettings
from jaxpaint.training.trainer import AdamW


def train_heads(
    features: Float[np.ndarray, "plans examples D"],
    labels: np.ndarray,
    evaluated: Float[np.ndarray, "plans others D"],
    num_labels: int,
    settings: TrainingSettings,
) -> Float[np.ndarray, "seeds plans others labels"]:
    """Logits of `evaluated` by classifiers trained on `features`, one for each plan and seed.

    `num_labels` 1 is a regression of float labels (mean squared error), else `labels` are classes (cross-entropy). A
    seed decides the order of examples, the initial weights and the dropout, the same ones under every plan. Settings
    that leave the dropout to a model raise ValueError.
    """
    if settings.dropout is None:
        raise ValueError("settings.dropout is None; give a rate")
    seeds = settings.seeds
    steps = [shuffled(len(labels), settings.batch_size, settings.epochs, seed) for seed in seeds]
    orders, weights = zip(*steps, strict=True)
    heads = [initial_head(seed, features.shape[-1], num_labels) for seed in seeds]
    starts = jax.tree.map(lambda *each: jnp.stack(each), *heads)
    keys = jnp.stack([jax.random.split(jax.random.key(seed))[1] for seed in seeds])
    optimizer = AdamW.of(settings, len(orders[0]))
    data = (features, labels, evaluated, np.stack(orders), np.stack(weights), starts, keys)
    return np.asarray(_train(*data, optimizer, settings.dropout))


def classifier_dropout(config: Any) -> float:
    """The rate before a classifier, as transformers' `BertForSequenceClassification` reads it."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def initial_head(seed: int, width: int, num_labels: int) -> dict[str, Array]:
    """A classifier's first weights."""
    first, _ = jax.random.split(jax.random.key(seed))
    return {"kernel": _normal(first, (width, num_labels)), "bias": jnp.zeros(num_labels)}


def initial_pooler(config: Any, key: Array) -> dict[str, Any]:
    """The first weights of a new pooler of an encoder without one."""
    named = abstract_parameters(dataclasses.replace(config, has_classifier_dense=True), jnp.float32)
    begun: dict[str, Callable[[tuple[int, ...]], Array]] = {
        "kernel": partial(_normal, key),
        "scale": jnp.ones,
        "bias": jnp.zeros,
    }
    first = "classifier_dense/"
    flat = {path.removeprefix(first): leaf.shape for path, leaf in named.items() if path.startswith(first)}
    return unflatten_dict({path: begun[path.split("/")[-1]](shape) for path, shape in flat.items()}, sep="/")


def _normal(key: Array, shape: tuple[int, ...]) -> Array:
    """With a deviation of 0.02, as BERT's."""
    return 0.02 * jax.random.normal(key, shape)


def class_logits(head: dict[str, Array], x: Float[Array, "B D"]) -> Float[Array, "B labels"]:
    return x @ head["kernel"] + head["bias"]


def label_loss(
    logits: Float[Array, "B labels"], labels: ArrayLike, weights: Float[ArrayLike, " B"]
) -> Float[Array, ""]:
    """The weighted sum of squared errors of a regression (one label), else of cross-entropies."""
    if logits.shape[-1] == 1:
        return (weights * jnp.square(logits[:, 0] - labels)).sum()
    return (weights * optax.softmax_cross_entropy_with_integer_labels(logits, labels)).sum()


@jit("optimizer", "rate")
def _train(features, labels, evaluated, orders, weights, starts, keys, optimizer, rate):
    train_one = partial(_train_one, optimizer=optimizer, rate=rate)
    over_plans = jax.vmap(train_one, in_axes=(0, None, 0, None, None, None, None))
    over_seeds = jax.vmap(over_plans, in_axes=(None, None, None, 0, 0, 0, 0))
    return over_seeds(features, labels, evaluated, orders, weights, starts, keys)


def _train_one(
    features: Float[Array, "examples D"],
    labels: Array,
    evaluated: Float[Array, "others D"],
    order: Int[Array, "steps batch"],
    weights: Float[Array, "steps batch"],
    start: dict[str, Array],
    key: Array,
    *,
    optimizer: AdamW,
    rate: float,
) -> Float[Array, "others labels"]:
    adamw = optimizer.transformation()

    def loss(parameters, x, y, weight, key):
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        return label_loss(class_logits(parameters, jnp.where(kept, x / (1 - rate), 0.0)), y, weight)

    def step(carry, batch):
        parameters, state = carry
        number, chosen, weight = batch
        gradient = jax.grad(loss)(parameters, features[chosen], labels[chosen], weight, jax.random.fold_in(key, number))
        updates, state = adamw.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), None

    (parameters, _), _ = jax.lax.scan(step, (start, adamw.init(start)), (jnp.arange(len(order)), order, weights))
    return class_logits(parameters, evaluated)

"""Classifiers on frozen features: those of all plans and seeds are trained together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.training.training_order import shuffled


@dataclass(frozen=True)
class HeadSettings:
    """How a classifier is trained; the defaults are the paper's A.9 on top of transformers' `run_glue.py`.

    AdamW without weight decay, a learning rate that falls linearly to 0, gradients clipped to a norm of
    `max_grad_norm`, dropout before the classifier (None: as the model's config says).
    """

    learning_rate: float = 3e-2
    epochs: int = 3
    batch_size: int = 32
    dropout: float | None = None
    max_grad_norm: float = 1.0


def train_heads(
    features: Float[np.ndarray, "plans examples D"],
    labels: np.ndarray,
    evaluated: Float[np.ndarray, "plans others D"],
    num_labels: int,
    seeds: tuple[int, ...],
    settings: HeadSettings,
) -> Float[np.ndarray, "seeds plans others labels"]:
    """Logits of `evaluated` by classifiers trained on `features`, one for each plan and seed.

    `num_labels` 1 is a regression of float labels (mean squared error), else `labels` are classes (cross-entropy). A
    seed decides the order of examples, the initial weights and the dropout, the same ones under every plan.

    Raises:
        ValueError: settings that leave the dropout to a model.
    """
    if settings.dropout is None:
        raise ValueError("settings.dropout is None; give a rate")
    steps = [shuffled(len(labels), settings.batch_size, settings.epochs, seed) for seed in seeds]
    orders, weights = zip(*steps, strict=True)
    heads = [initial_head(seed, features.shape[-1], num_labels) for seed in seeds]
    starts = jax.tree.map(lambda *each: jnp.stack(each), *heads)
    keys = jnp.stack([jax.random.split(jax.random.key(seed))[1] for seed in seeds])
    logits = _train(features, labels, evaluated, np.stack(orders), np.stack(weights), starts, keys, settings)
    return np.asarray(logits)


def classifier_dropout(config: Any) -> float:
    """The rate before a classifier, as transformers' `BertForSequenceClassification` reads it."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def initial_head(seed: int, width: int, num_labels: int) -> dict[str, Array]:
    """A classifier's first weights: normal with a deviation of 0.02, and zeros, as BERT's."""
    first, _ = jax.random.split(jax.random.key(seed))
    return {"kernel": 0.02 * jax.random.normal(first, (width, num_labels)), "bias": jnp.zeros(num_labels)}


@jit("settings")
def _train(features, labels, evaluated, orders, weights, starts, keys, settings):
    over_plans = jax.vmap(partial(_train_one, settings=settings), in_axes=(0, None, 0, None, None, None, None))
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
    settings: HeadSettings,
) -> Float[Array, "others labels"]:
    steps, num_labels, rate = len(order), start["bias"].size, settings.dropout or 0.0
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm),
        optax.adamw(optax.linear_schedule(settings.learning_rate, 0.0, steps), weight_decay=0.0),
    )

    def logits(parameters, x):
        return x @ parameters["kernel"] + parameters["bias"]

    def loss(parameters, x, y, weight, key):
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        found = logits(parameters, jnp.where(kept, x / (1 - rate), 0.0))
        if num_labels == 1:
            return (weight * jnp.square(found[:, 0] - y)).sum()
        return (weight * optax.softmax_cross_entropy_with_integer_labels(found, y)).sum()

    def step(carry, batch):
        parameters, state = carry
        number, chosen, weight = batch
        gradient = jax.grad(loss)(parameters, features[chosen], labels[chosen], weight, jax.random.fold_in(key, number))
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), None

    (parameters, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), (jnp.arange(steps), order, weights))
    return logits(parameters, evaluated)

"""What a model does with texts: losses and accuracies by kind of prediction, and what its layers attend to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpaint.birth.data import Batch
from jaxpaint.birth.layers import Parameters
from jaxpaint.birth.model import SmallModel, attention_patterns

START = 10  # positions that count as a text's start


def losses(logits: Float[Array, "B T N"], batch: Batch) -> Float[Array, "B T"]:
    """Cross-entropy of every position, in nats."""
    chances = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(chances, batch.labels[..., None], axis=-1)[..., 0]


def scores(logits: Float[Array, "B T N"], batch: Batch) -> dict[str, Float[Array, ""]]:
    """Mean losses where the prediction is global (counter 0) and in context (2 or more), and accuracies: in context, of
    all outputs (1 or more), and of all outputs within the first ten positions.
    """
    loss = losses(logits, batch)
    correct, counters = jnp.argmax(logits, axis=-1) == batch.labels, batch.counters
    early = jnp.arange(counters.shape[1]) < START
    return {
        "loss": loss.mean(),
        "global_loss": mean(loss, counters == 0),
        "in_context_loss": mean(loss, counters >= 2),
        "accuracy": mean(correct, counters >= 2),
        "output_accuracy": mean(correct, counters >= 1),
        "start_accuracy": mean(correct, (counters >= 1) & early),
    }


def attention_scores(model: SmallModel, parameters: Parameters, batch: Batch) -> dict[str, Float[Array, ""]]:
    """What two layers attend to most, in the full model.

    `looks_back`: after a trigger's first occurrence, layer 0 finds the trigger. `hits`: at later ones, layer 1 finds a
    place after the same trigger (a hit at position 0 counts as a miss). `copies`: what is predicted there is the token
    that layer 1 found. `looks_back_at_hits`: at that place, layer 0 finds the position before.
    """
    first, second = (jnp.argmax(pattern, axis=-1) for pattern in attention_patterns(model, parameters, batch.tokens))
    x = model.embed(parameters, batch.tokens)
    for index in range(model.layers):
        x = model.block(jax.tree.map(lambda leaf, index=index: leaf[index], parameters["layers"]), x, ())
    predicted = jnp.argmax(model.unembed(parameters, x), axis=-1)
    tokens, later = batch.tokens, batch.counters >= 2
    found = jnp.take_along_axis(tokens, second, axis=1)
    before = jnp.take_along_axis(tokens, jnp.maximum(second - 1, 0), axis=1)
    positions = jnp.arange(tokens.shape[1])
    return {
        "looks_back": mean(first[:, 1:] == positions[:-1], batch.counters[:, :-1] == 1),
        "hits": mean((second >= 1) & (before == tokens), later),
        "copies": mean(predicted == found, later),
        "looks_back_at_hits": mean(jnp.take_along_axis(first, second, axis=1) == second - 1, later & (second >= 1)),
    }


def mean(values: Array, where: Array) -> Float[Array, ""]:
    """Over the marked positions; 0 where there are none."""
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1)

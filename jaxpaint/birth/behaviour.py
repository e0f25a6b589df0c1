"""What a model does with texts: losses and accuracies by kind of prediction, and what its layers attend to."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.birth.data import Batch
from jaxpaint.engine.events import Events

START = 10  # positions that count as a text's start
SHOWN_TOKENS = 40  # of an attention map


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


def attention_scores(
    patterns: Sequence[Float[Array, "B T T"]], events: Events, logits: Float[Array, "B T N"], batch: Batch
) -> dict[str, Float[Array, ""]]:
    """What two layers attend to most, under a plan of which `patterns` is every event's attention.

    `looks_back`: after a trigger's first occurrence, layer 0 finds the trigger. `hits`: at later ones, layer 1 finds a
    place after the same trigger (a hit at position 0 counts as a miss). `copies`: what is predicted there is the token
    that layer 1 found. `looks_back_at_hits`: at that place, layer 0 finds the position before. Layer 0 is asked the
    first time that it runs, layer 1 the last time; 0 of a layer that does not run.
    """
    most = jnp.stack([jnp.argmax(pattern, axis=-1) for pattern in patterns])
    (first, has_first), (second, has_second) = (_event(events, layer) for layer in range(2))
    first, second = most[first], most[second]
    predicted = jnp.argmax(logits, axis=-1)
    tokens, later = batch.tokens, batch.counters >= 2
    found = jnp.take_along_axis(tokens, second, axis=1)
    before = jnp.take_along_axis(tokens, jnp.maximum(second - 1, 0), axis=1)
    positions = jnp.arange(tokens.shape[1])
    at_hits = jnp.take_along_axis(first, second, axis=1) == second - 1
    return {
        "looks_back": has_first * mean(first[:, 1:] == positions[:-1], batch.counters[:, :-1] == 1),
        "hits": has_second * mean((second >= 1) & (before == tokens), later),
        "copies": has_second * mean(predicted == found, later),
        "looks_back_at_hits": has_first * has_second * mean(at_hits, later & (second >= 1)),
    }


def attention_maps(patterns: Sequence[Float[Array, "B T T"]], events: Events) -> dict[str, Float[Array, "S S"]]:
    """The first text's first tokens: what `layer 0` attends to the first time, and `layer 1` the last time it runs."""
    shown = jnp.stack([pattern[0, :SHOWN_TOKENS, :SHOWN_TOKENS] for pattern in patterns])
    return {f"layer {layer}": shown[_event(events, layer)[0]] for layer in range(2)}


def _event(events: Events, layer: int) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Of layer 0 the first, of layer 1 the last event that anything reads, and whether there is one."""
    is_one = (jnp.asarray(events.layers) == layer) & (jnp.asarray(events.weights) != 0).any(axis=0)
    last = len(is_one) - 1 - jnp.argmax(is_one[::-1])
    return (last if layer else jnp.argmax(is_one)), is_one.any()


def mean(values: Array, where: Array) -> Float[Array, ""]:
    """Over the marked positions; 0 where there are none."""
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1)

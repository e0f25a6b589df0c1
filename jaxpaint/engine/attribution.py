"""A logit as the exact sum of what each event of a plan wrote to the last state.

The last state is the embeddings plus every event's updates, each by its weight (`jaxpaint.plans.events.Event.weight`),
whatever the plan: a mean of branches is their input plus the mean of their updates. The final norm is a linear map
once its statistics are taken from the run, and so is the head: a logit is a sum of as many parts. What an event
changed in later events is not in its part; that is what knockouts are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.engine.layers import run_layer


@dataclass(frozen=True, eq=False)
class Attribution:
    """The logit of a token at a position of each row B, as the sum of its parts; before a cap on logits.

    `embedding`, `attention`, `mlp` and `bias` (of a final layer norm) add up to `logit`, but for rounding. Those of
    the plan's events E come in their order.
    """

    token: Int[np.ndarray, " B"]
    position: Int[np.ndarray, " B"]
    embedding: Float[np.ndarray, " B"]
    attention: Float[np.ndarray, "E B"]
    mlp: Float[np.ndarray, "E B"]
    bias: Float[np.ndarray, " B"]
    logit: Float[np.ndarray, " B"]

    @property
    def remainder(self) -> Float[np.ndarray, " B"]:
        """What rounding left: of states in bfloat16 up to a few hundredths of the logit."""
        return self.logit - self.embedding - self.attention.sum(axis=0) - self.mlp.sum(axis=0) - self.bias


@jit("graphdef")
def directions(graphdef, state, last, tokens):
    """`(direction [B, D], bias [B], logit [B])`: a part's share is its product with the direction, all in float32.

    `last` [B, D] are last states, before the final norm, and `tokens` [B] those whose logits are explained.
    """
    model = nnx.merge(graphdef, state)
    last, unembedding = last.astype(jnp.float32), model.unembedding(tokens)
    scale = model.norm.scale[...].astype(jnp.float32) + (1.0 if model.traits.norm_offset else 0.0)
    direction, bias = scale * unembedding, jnp.zeros(len(last))
    spread = jnp.square(last)
    if model.traits.norm == "layer":
        direction -= direction.mean(axis=-1, keepdims=True)  # in place of every part's mean
        bias = (model.norm.bias[...].astype(jnp.float32) * unembedding).sum(axis=-1)
        spread = jnp.square(last - last.mean(axis=-1, keepdims=True))
    direction /= jnp.sqrt(spread.mean(axis=-1, keepdims=True) + model.traits.epsilon)
    return direction, bias, (direction * last).sum(axis=-1) + bias


@jit("graphdef")
def by_head_and_source(graphdef, state, layer, direction, weights, values):
    """One event's `(parts [B, N, S], bias [B])` by head and source token, of its attention's weights [B, N, S]."""
    blocks, stacked = nnx.split(nnx.merge(graphdef, state).blocks)

    def of_layer(parameters: Any, direction: Array, weights: Array, values: Array) -> tuple[Array, Array]:
        block = nnx.merge(blocks, parameters)
        attention = getattr(block, block.traits.attention)
        along = attention.by_head(direction)
        along = along.reshape(len(along), values.shape[2], -1, along.shape[-1])
        products = jnp.einsum("bskh,bkgh->bkgs", values.astype(jnp.float32), along.astype(jnp.float32))
        nothing = jnp.zeros((len(direction), 1, weights.shape[1], values.shape[-1]), values.dtype)
        bias = (attention.mixed_output(nothing)[:, 0] * direction).sum(axis=-1)
        return weights * products.reshape(weights.shape), bias

    return run_layer(of_layer, stacked, layer, direction, weights, values)


def along(direction: Float[np.ndarray, "B D"], updates: Float[np.ndarray, "E B D"]) -> Float[np.ndarray, "E B"]:
    """The updates' shares. On the host: plans have any number of events, and each would be compiled for."""
    return np.einsum("bd,ebd->eb", direction.astype(np.float64), updates.astype(np.float64)).astype(np.float32)

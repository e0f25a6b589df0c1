"""How much of a whole each of its parts is, by what it leaves to the others when it is taken away.

    y = sum_i z_i,     p_i = max(|y| - |y - z_i|, 1e-5),     c_i = p_i / sum_j p_j          L1 norms

as in "Information Flow Routes" (Ferrando and Voita, arXiv 2403.00824). A part of zeros has p = 0. Of a whole whose
parts all are, the first has all.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.engine.layers import run_layer

FLOOR = 1e-5
# Differences of wholes and parts, in float32, in memory at once.
BLOCK_BYTES = 64 << 20


class Written(NamedTuple):
    """What a run has of one event in one row (`jaxpaint.engine.run.Run`)."""

    reads: Float[Array, "S D"]
    attention_out: Float[Array, "S D"]
    mlp_out: Float[Array, "S D"]
    attention: Float[Array, "N S S"]
    values: Float[Array, "S K H"]


class OfAttention(NamedTuple):
    """Shares of the state after attention, for some of its tokens; where residuals lie side by side, after the layer.

    `mlp` is 0 where the feed-forward comes later, and `bias` (of attention's output) where there is none.
    """

    residual: Float[Array, " Q"]
    heads: Float[Array, "N Q S"]
    bias: Float[Array, " Q"]
    mlp: Float[Array, " Q"]


def shares(parts: Float[Array, "*parts D"], counted: Float[Array, " D"] | None = None) -> Float[Array, "*parts"]:
    """Of the sum of parts, which lie along the first axis; of its coordinates, along the last, those `counted` as 1."""
    parts = jnp.asarray(parts, jnp.float32)
    counted = jnp.ones(parts.shape[-1]) if counted is None else counted
    found = _near(parts.sum(axis=0), parts, counted)
    total = found.sum(axis=0)
    first = jnp.zeros_like(found).at[0].set(1.0)
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), first)


def _near(
    whole: Float[Array, "*#at D"], part: Float[Array, "*at D"], counted: Float[Array, " D"]
) -> Float[Array, "*at"]:
    """p of a part. Coordinate by coordinate, so that large ones do not drown the others in rounding."""
    taken = ((jnp.abs(whole) - jnp.abs(whole - part)) * counted).sum(axis=-1)
    return jnp.where((part * counted != 0).any(axis=-1), jnp.maximum(taken, FLOOR), 0.0)


@jit()
def of_parts(parts, counted) -> Float[Array, "count S"]:
    """`shares`, compiled; parts of zeros may fill a number of them up."""
    return shares(parts, counted)


@jit("graphdef")
def of_attention(graphdef, state, layer, written, places, counted) -> OfAttention:
    """Of an event of `layer`, at the positions `places` [Q], by head and source token."""
    model = nnx.merge(graphdef, state)
    blocks, stacked = nnx.split(model.blocks)
    beside = model.traits.residuals == "side by side"
    ends = written.reads, written.attention_out, written.mlp_out
    residual, out, mlp = (each[places].astype(jnp.float32) for each in ends)
    mlp = mlp if beside else jnp.zeros_like(mlp)
    whole = residual + out + mlp

    def of_layer(parameters: Any, values: Array) -> tuple[Array, Array]:
        block = nnx.merge(blocks, parameters)
        return _written_by(getattr(block, block.traits.attention), values)

    kernel, bias = run_layer(of_layer, stacked, layer, written.values)
    heads = _of_heads(whole, kernel, written.values, written.attention[:, places], counted)
    others = [_near(whole, each, counted) for each in (residual, jnp.broadcast_to(bias, whole.shape), mlp)]
    total = heads.sum(axis=(0, 2)) + sum(others)
    nothing = total == 0
    total = jnp.where(nothing, 1.0, total)
    of_residual, of_bias, of_mlp = (each / total for each in others)
    return OfAttention(jnp.where(nothing, 1.0, of_residual), heads / total[:, None], of_bias, of_mlp)


def _written_by(attention: Any, values: Array) -> tuple[Float[Array, "N H D"], Float[Array, " D"]]:
    """What heads' mixed values are multiplied with, and what is added: whatever the kernel is kept in."""
    heads, size = attention.config.num_attention_heads, attention.config.head_dim
    basis = jnp.eye(heads * size, dtype=values.dtype).reshape(-1, 1, heads, size)
    bias, kernel = jax.jvp(attention.mixed_output, (jnp.zeros_like(basis),), (basis,))
    return kernel.astype(jnp.float32).reshape(heads, size, -1), bias[0, 0].astype(jnp.float32)


def _of_heads(
    whole: Float[Array, "Q D"],
    kernel: Float[Array, "N H D"],
    values: Float[Array, "S K H"],
    weights: Float[Array, "N Q S"],
    counted: Float[Array, " D"],
) -> Float[Array, "N Q S"]:
    """p of every head's part from every source, a head and a block of queries at a time."""
    shared = len(kernel) // values.shape[1]  # query heads that read the same values
    block = max(1, BLOCK_BYTES // (4 * values.shape[0] * whole.shape[-1]))

    def of_head(number: Int[Array, ""], own: Float[Array, "H D"], edges: Float[Array, "Q S"]) -> Float[Array, "Q S"]:
        said = values[:, number // shared].astype(jnp.float32) @ own
        of_query = partial(_of_query, said=said, counted=counted)
        return jax.lax.map(of_query, (whole, edges), batch_size=min(block, len(whole)))

    return jax.lax.map(lambda head: of_head(*head), (jnp.arange(len(kernel)), kernel, weights))


def _of_query(
    query: tuple[Float[Array, " D"], Float[Array, " S"]], said: Float[Array, "S D"], counted: Float[Array, " D"]
) -> Float[Array, " S"]:
    whole, edges = query
    return _near(whole, edges[:, None] * said, counted)

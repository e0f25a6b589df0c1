"""The head at scored positions alone: log-probabilities of targets, without the logits of a whole batch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Batch
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.tiles import MULTIPLE

# The head runs over scored positions in chunks and, where caches are small, over the vocabulary in blocks.
MOST_POSITIONS = 4096  # per chunk


class ModelOutputError(UserError):
    """The model's logits are not finite: whatever the cause, no score may come of them."""


def target_logprobs(
    model: Model, hidden: Float[Array, "B S D"], batch: Batch
) -> tuple[Float[Array, "M t"], Bool[Array, "M t"]]:
    """Log-probabilities of a batch's targets and whether each is the most likely token. Does not wait."""
    chunk = head_chunk(model.config.vocab_size, batch.scored.size)
    scored = batch.scored, batch.targets, batch.count
    return _at_scored(model.graphdef, model.state, chunk, model.mesh, hidden, *scored)


def head_chunk(vocab_size: int, positions: int) -> int:
    """Scored positions per chunk of the head: an equal part of all, within the memory allowed."""
    allowed = max(1, min(MOST_POSITIONS, budgets().logits_bytes // (4 * vocabulary_block(vocab_size))))
    return -(-positions // -(-positions // allowed))


def vocabulary_block(vocab_size: int) -> int:
    """Tokens whose logits are computed at once: an equal part of the vocabulary that caches hold, and tiles take."""
    most = budgets().vocabulary_block
    part = -(-vocab_size // -(-vocab_size // most))
    tiled = -(-part // MULTIPLE) * MULTIPLE
    return tiled if tiled <= min(most, vocab_size) else part


@jit("graphdef", "chunk", "mesh")
def _at_scored(graphdef, state, chunk, mesh, hidden, scored, targets, count):
    model = nnx.merge(graphdef, state)
    return _in_chunks(model, hidden.reshape(-1, hidden.shape[-1]), scored, targets, count, chunk, mesh)


def _in_chunks(
    model,
    hidden: Float[Array, "tokens D"],
    scored: Int[Array, " M"],
    targets: Int[Array, "M t"],
    count,
    chunk: int,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "M t"], Bool[Array, "M t"]]:
    """The head at the first `count` scored positions only, `chunk` at a time, so the [M, V] logits never exist.

    What remains after the last whole chunk runs in quarters of one.
    """
    block = vocabulary_block(model.config.vocab_size)
    # No slice is all there is: what a loop computes alike in each round XLA computes before it, were it to run or not.
    scored, targets = (jnp.pad(each, [(0, chunk), *[(0, 0)] * (each.ndim - 1)]) for each in (scored, targets))

    def step(size: int, first, i, outputs):
        start = first + i * size
        where = jax.lax.dynamic_slice_in_dim(scored, start, size)
        wanted = jax.lax.dynamic_slice_in_dim(targets, start, size)
        states = hidden[where]
        if mesh is not None and size % mesh.shape[DATA] == 0:
            states = jax.lax.with_sharding_constraint(states, rows(mesh))
        at_targets, largest, total = _over_vocabulary(model, model.norm(states), wanted, block)
        logprobs, greedy = outputs
        return (
            jax.lax.dynamic_update_slice_in_dim(logprobs, at_targets - (largest + jnp.log(total))[:, None], start, 0),
            jax.lax.dynamic_update_slice_in_dim(greedy, at_targets >= largest[:, None], start, 0),
        )

    outputs = jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
    part = -(-chunk // 4)
    # More than two parts cost as much as a chunk: each reads the whole vocabulary.
    whole = (count + chunk - 2 * part - 1) // chunk
    outputs = jax.lax.fori_loop(0, whole, partial(step, chunk, 0), outputs)
    parts = jnp.maximum(0, -(-(count - whole * chunk) // part))
    logprobs, greedy = jax.lax.fori_loop(0, parts, partial(step, part, whole * chunk), outputs)
    return logprobs[:-chunk], greedy[:-chunk]


def _over_vocabulary(
    model, normed: Float[Array, "m D"], wanted: Int[Array, "m t"], block: int
) -> tuple[Float[Array, "m t"], Float[Array, " m"], Float[Array, " m"]]:
    """The logits at `wanted`, the largest, and the sum of exp(logit - largest), block by block of the vocabulary."""

    vocab_size = model.config.vocab_size

    def step(i, found):
        at_targets, largest, total = found
        # The last block may reach back over tokens that the one before it has done.
        first = jnp.minimum(i * block, vocab_size - block)
        logits = model.vocabulary_logits(normed, first, block)
        inside = (wanted >= first) & (wanted < first + block)
        here = jnp.take_along_axis(logits, jnp.clip(wanted - first, 0, block - 1).T, axis=0).T
        if vocab_size % block:
            logits = jnp.where((first + jnp.arange(block) >= i * block)[:, None], logits, -jnp.inf)
        new_largest = jnp.maximum(largest, logits.max(axis=0))
        total = total * jnp.exp(largest - new_largest) + jnp.exp(logits - new_largest).sum(axis=0)
        return jnp.where(inside, here, at_targets), new_largest, total

    positions = normed.shape[0]
    found = jnp.zeros(wanted.shape), jnp.full(positions, jnp.finfo(jnp.float32).min), jnp.zeros(positions)
    return jax.lax.fori_loop(0, -(-vocab_size // block), step, found)

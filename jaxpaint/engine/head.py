"""Log-likelihoods of continuations under a plan: packed, at target positions only, compiled once for all plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model, embed_and_run
from jaxpaint.engine.packing import Batch, Request, pack
from jaxpaint.engine.program import Program
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.source import Source

# The head runs over scored positions in chunks and, where caches are small, over the vocabulary in blocks.
MOST_POSITIONS = 4096  # per chunk
# Attending to a key costs about twice what its share of the floating-point operations says (softmax, memory).
ATTENTION_OVERHEAD = 2.0
# Batches under way before the host waits for the oldest: keeps the device busy and the progress bar honest.
BATCHES_IN_FLIGHT = 2


class ModelOutputError(UserError):
    """The model's logits are not finite: whatever the cause, no score may come of them."""


@dataclass(frozen=True)
class Scores:
    """Per request, in the order given: summed natural-log likelihood, and whether greedy decoding would produce it.

    `computed_tokens` are the positions that were run, padding included; `request_tokens` those asked for.
    """

    loglikelihoods: Float[np.ndarray, " requests"]
    is_greedy: Bool[np.ndarray, " requests"]
    request_tokens: int
    computed_tokens: int


def score(
    model: Model,
    requests: Sequence[Request],
    plan: Plan | None = None,
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores requests under one plan (default: all layers in order).

    `batch_tokens` bounds the positions per batch; `progress` is called with the number of requests' tokens done.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        ModelOutputError: NaN or infinite logits.
    """
    plan = model.checked_plan(plan)
    program = Program.of(plan)
    batches = pack_for(model, requests, batch_tokens)
    totals = np.zeros(len(requests))
    greedy = np.ones(len(requests), bool)
    under_way: list[tuple[Batch, tuple[Array, Array]]] = []

    def collect(batch: Batch, output: tuple[Array, Array]) -> None:
        loglikelihoods, is_greedy = batch.per_request(*(np.asarray(array) for array in output))
        if not np.isfinite(loglikelihoods).all():
            raise ModelOutputError(
                f"NaN or infinite logits under plan {plan}: no score was made. Check the checkpoint, or try "
                "--dtype float32"
            )
        totals[batch.requests], greedy[batch.requests] = loglikelihoods, is_greedy
        if progress:
            progress(sum(len(requests[i].tokens) for i in batch.requests))

    for batch in batches:
        under_way.append((batch, run_batch(model, program, batch)))
        if len(under_way) > BATCHES_IN_FLIGHT:
            collect(*under_way.pop(0))
    for item in under_way:
        collect(*item)
    return Scores(totals, greedy, sum(len(r.tokens) for r in requests), sum(batch.tokens.size for batch in batches))


def pack_for(model: Model | Source, requests: Sequence[Request], batch_tokens: int | None = None) -> list[Batch]:
    """`pack` with the costs of this model and the sizes of its devices. Raises UserError for an encoder."""
    model.require_decoder("scoring what follows a text")
    shards = model.mesh.shape[DATA] if isinstance(model, Model) and model.mesh else 1
    return pack(
        requests,
        batch_tokens=batch_tokens or budgets().score_tokens * shards,
        attention_cost=attention_cost(model),
        rows_multiple=shards,
    )


def place(model: Model, batch: Batch) -> tuple[Any, Any, Any]:
    """A batch's tokens, positions and `visible_until`, rows spread over the devices."""
    layout = batch.tokens, batch.positions, batch.visible_until
    return jax.device_put(layout, rows(model.mesh)) if model.mesh else layout


def attention_cost(model: Model | Source) -> float:
    """What attending to one more key costs, relative to all else a layer does for a token."""
    config = model.config
    block = sum(leaf.size for leaf in jax.tree.leaves(model.state["blocks"])) / config.num_hidden_layers
    return ATTENTION_OVERHEAD * 4 * config.num_attention_heads * config.head_dim / (2 * block)


def run_batch(model: Model, program: Program, batch: Batch) -> tuple[Float[Array, "M t"], Bool[Array, "M t"]]:
    """Log-probabilities of a batch's targets and whether each is the most likely token. Does not wait."""
    return _score_batch(
        model.graphdef,
        model.state,
        program.instructions,
        program.length,
        program.room,
        head_chunk(model.config.vocab_size, batch.scored.size),
        model.mesh,
        batch.lookback,
        *place(model, batch),
        batch.scored,
        batch.targets,
        batch.count,
    )


def head_chunk(vocab_size: int, positions: int) -> int:
    """Scored positions per chunk of the head: an equal part of all, within the memory allowed."""
    allowed = max(1, min(MOST_POSITIONS, budgets().logits_bytes // (4 * vocabulary_block(vocab_size))))
    return -(-positions // -(-positions // allowed))


def vocabulary_block(vocab_size: int) -> int:
    """Tokens whose logits are computed at once: an equal part of the vocabulary that caches hold."""
    return -(-vocab_size // -(-vocab_size // budgets().vocabulary_block))


@jit("graphdef", "room", "chunk", "mesh", "lookback")
def _score_batch(
    graphdef,
    state,
    instructions,
    length,
    room,
    chunk,
    mesh,
    lookback,
    tokens,
    positions,
    visible_until,
    scored,
    targets,
    count,
):
    model = nnx.merge(graphdef, state)
    hidden = embed_and_run(model, instructions, length, room, tokens, positions, visible_until, lookback)
    return target_logprobs(model, hidden.reshape(-1, hidden.shape[-1]), scored, targets, count, chunk, mesh)


def target_logprobs(
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
    vocab_size = model.config.vocab_size
    block = vocabulary_block(vocab_size)

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
    # More than three parts cost as much as a chunk. A slice that would reach beyond the end starts earlier and computes
    # positions again, to the same result.
    whole = (count + chunk - 3 * part - 1) // chunk
    outputs = jax.lax.fori_loop(0, whole, partial(step, chunk, 0), outputs)
    parts = jnp.maximum(0, -(-(count - whole * chunk) // part))
    return jax.lax.fori_loop(0, parts, partial(step, part, whole * chunk), outputs)


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

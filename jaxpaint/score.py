"""Log-likelihoods of continuations under a plan: packed, at target positions only, compiled once for all plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.compilation import jit
from jaxpaint.errors import UserError
from jaxpaint.model import Model, embed_and_run
from jaxpaint.packing import Batch, Request, pack
from jaxpaint.plan import Plan
from jaxpaint.program import Program
from jaxpaint.sharding import DATA, rows

# Bytes of float32 logits in memory at once; the head runs over scored positions in chunks of this size.
HEAD_BYTES = {"cpu": 64 << 20, "accelerator": 512 << 20}
# Tokens a batch: enough for large matrix products, few enough for caches (CPU) and memory (accelerators).
BATCH_TOKENS = {"cpu": 2048, "accelerator": 32768}
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


def default_batch_tokens() -> int:
    return BATCH_TOKENS["cpu" if jax.default_backend() == "cpu" else "accelerator"]


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
        logprobs, is_greedy = (np.asarray(array).reshape(-1)[batch.slots] for array in output)
        if not np.isfinite(logprobs).all():
            raise ModelOutputError(
                f"NaN or infinite logits under plan {plan}: no score was made. Check the checkpoint, or try "
                "--dtype float32"
            )
        np.add.at(totals, batch.request_ids, logprobs.astype(np.float64))
        np.logical_and.at(greedy, batch.request_ids, is_greedy)
        if progress:
            progress(sum(len(requests[i].tokens) for i in np.unique(batch.request_ids)))

    for batch in batches:
        under_way.append((batch, run_batch(model, program, batch)))
        if len(under_way) > BATCHES_IN_FLIGHT:
            collect(*under_way.pop(0))
    for item in under_way:
        collect(*item)
    return Scores(totals, greedy, sum(len(r.tokens) for r in requests), sum(batch.tokens.size for batch in batches))


def pack_for(model: Model, requests: Sequence[Request], batch_tokens: int | None = None) -> list[Batch]:
    """`pack` with the costs of this model and the sizes of its devices."""
    shards = model.mesh.shape[DATA] if model.mesh else 1
    return pack(
        requests,
        batch_tokens=batch_tokens or default_batch_tokens() * shards,
        attention_cost=attention_cost(model),
        rows_multiple=shards,
    )


def place(model: Model, batch: Batch) -> tuple[Any, Any, Any]:
    """A batch's tokens, positions and `visible_until`, rows spread over the devices."""
    layout = batch.tokens, batch.positions, batch.visible_until
    return jax.device_put(layout, rows(model.mesh)) if model.mesh else layout


def attention_cost(model: Model) -> float:
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
        program.nesting,
        head_chunk(model.config.vocab_size, batch.scored.size),
        model.mesh,
        *place(model, batch),
        batch.scored,
        batch.targets,
        batch.count,
    )


def head_chunk(vocab_size: int, positions: int) -> int:
    """Scored positions per chunk of the head: a power of two within the memory allowed, that divides them."""
    allowed = HEAD_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"] // (4 * vocab_size)
    chunk = 1
    while chunk * 2 <= min(allowed, positions) and positions % (chunk * 2) == 0:
        chunk *= 2
    return chunk


@jit("graphdef", "nesting", "chunk", "mesh")
def _score_batch(
    graphdef,
    state,
    instructions,
    length,
    nesting,
    chunk,
    mesh,
    tokens,
    positions,
    visible_until,
    scored,
    targets,
    count,
):
    model = nnx.merge(graphdef, state)
    hidden = embed_and_run(model, instructions, length, nesting, tokens, positions, visible_until)
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
    """The head at the first `count` scored positions only, `chunk` at a time, so the [M, V] logits never exist."""

    def step(i, outputs):
        logprobs, greedy = outputs
        where = jax.lax.dynamic_slice_in_dim(scored, i * chunk, chunk)
        wanted = jax.lax.dynamic_slice_in_dim(targets, i * chunk, chunk)
        states = hidden[where]
        if mesh is not None and chunk % mesh.shape[DATA] == 0:
            states = jax.lax.with_sharding_constraint(states, rows(mesh))
        logits = model.vocabulary_logits(states)
        at_targets = jnp.take_along_axis(logits, wanted.T, axis=0).T
        found = at_targets - jax.nn.logsumexp(logits, axis=0)[:, None]
        best = at_targets >= logits.max(axis=0)[:, None]
        return (
            jax.lax.dynamic_update_slice_in_dim(logprobs, found, i * chunk, axis=0),
            jax.lax.dynamic_update_slice_in_dim(greedy, best, i * chunk, axis=0),
        )

    outputs = jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
    return jax.lax.fori_loop(0, -(-count // chunk), step, outputs)

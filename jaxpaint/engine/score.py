"""Log-likelihoods under many plans at once: every distinct prefix of layers is computed once per batch.

For each batch the prefix tree of the plans (`jaxpaint.plans.tree`) is walked depth first. A stretch of the tree runs
as data through one executable, whatever its layers and groups; the head runs where plans end. Hidden states are held
only where plans part, within a bound; beyond that a stretch is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.head import head_chunk, pack_for, place, target_logprobs
from jaxpaint.engine.model import Model, layer_stack
from jaxpaint.engine.packing import Batch, Request
from jaxpaint.engine.program import Program, room_for
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree, walk

# Outputs under way before the host waits for the oldest.
PLANS_IN_FLIGHT = 2


@dataclass(frozen=True)
class PlanScores:
    """What one batch gave the plans of these indices, which end alike.

    Log-likelihoods (NaN where logits were not finite) and greedy are in the order of `batch.requests`. `executed`
    counts layer applications times positions run since the last scores, padding and recomputation included.
    """

    plans: tuple[int, ...]
    loglikelihoods: np.ndarray
    is_greedy: np.ndarray
    executed: int


@dataclass(frozen=True)
class SweepScores:
    """Per plan and request, in the orders given: log-likelihoods (NaN where logits were not finite) and greedy.

    `executed` counts layer applications times positions run, padding and recomputation included; `distinct` those of
    the distinct plan prefixes times the distinct tokens, the least that any order of work could do; `separate` what
    every plan and every request run alone would have taken.
    """

    loglikelihoods: np.ndarray
    is_greedy: np.ndarray
    executed: int
    distinct: int
    separate: int


def score_plans(
    model: Model,
    requests: Sequence[Request],
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None = None,
    held_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SweepScores:
    """Scores requests under every plan: [plans, requests]. Equal to `jaxpaint.engine.head.score` plan by plan.

    `progress` is called with the number of layer applications times positions just run. Plans whose logits are
    not finite get NaN, and do not stop the others.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    totals = np.zeros((len(plans), len(requests)))
    greedy = np.ones((len(plans), len(requests)), bool)
    executed = 0
    batches = pack_for(model, requests, batch_tokens)
    for batch in batches:
        for scores in sweep_batch(model, batch, plans, held_bytes=held_bytes):
            where = np.ix_(np.array(scores.plans), batch.requests)
            totals[where], greedy[where] = scores.loglikelihoods, scores.is_greedy
            executed += scores.executed
            if progress:
                progress(scores.executed)
    return SweepScores(
        totals,
        greedy,
        executed,
        distinct=(prefix_tree(plans).cost if plans else 0) * sum(batch.real_tokens for batch in batches),
        separate=sum(plan.cost for plan in plans) * sum(len(request.tokens) for request in requests),
    )


def sweep_batch(
    model: Model, batch: Batch, plans: Sequence[Plan], *, held_bytes: int | None = None
) -> Iterator[PlanScores]:
    """Scores one batch under every plan, each distinct prefix of layers once; every plan comes up exactly once.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    for plan in plans:
        plan.validate(model.num_layers)
    if not plans:
        return
    held_bytes = budgets().state_bytes if held_bytes is None else held_bytes
    state_bytes = batch.tokens.size * model.config.hidden_size * model.dtype.itemsize
    room = max(room_for(plan) for plan in plans)
    under_way: deque[tuple[tuple[int, ...], tuple[Array, Array], int]] = deque()
    executed = 0
    x, context = _embed(model.graphdef, model.state, *place(model, batch), batch.lookback)
    chunk = head_chunk(model.config.vocab_size, batch.scored.size)

    def advance(x: Array, part: Plan, before: int) -> Array:
        program = Program.of(part)
        # One executable for series, one for groups: many stretches are short, and room for groups costs time.
        own = 0 if part.is_series else room
        return _segment(model.graphdef, model.state, program.instructions, program.length, own, x, context)

    steps = walk(prefix_tree(plans), x, advance, held_bytes // state_bytes)
    del x
    for branch, state, cost in steps:
        executed += cost * batch.tokens.size
        if branch.ends:
            scored = batch.scored, batch.targets, batch.count
            under_way.append(
                (branch.ends, _head(model.graphdef, model.state, chunk, model.mesh, state, *scored), executed)
            )
            executed = 0
        del state
        if len(under_way) > PLANS_IN_FLIGHT:
            yield _collect(batch, *under_way.popleft())
    while under_way:
        yield _collect(batch, *under_way.popleft())


def _collect(batch: Batch, ends: tuple[int, ...], output: tuple[Array, Array], executed: int) -> PlanScores:
    loglikelihoods, is_greedy = batch.per_request(*(np.asarray(array) for array in output))
    return PlanScores(ends, np.where(np.isfinite(loglikelihoods), loglikelihoods, np.nan), is_greedy, executed)


@jit("graphdef", "lookback")
def _embed(graphdef, state, tokens, positions, visible_until, lookback):
    model = nnx.merge(graphdef, state)
    return model.embed(tokens, positions), model.context(positions, visible_until, lookback)


@jit("graphdef", "room")
def _segment(graphdef, state, instructions, length, room, x, context):
    block, stacked = layer_stack(nnx.merge(graphdef, state))
    return stack.run_program(block, stacked, instructions, length, room, x, context)


@jit("graphdef", "chunk", "mesh")
def _head(graphdef, state, chunk, mesh, hidden, scored, targets, count):
    model = nnx.merge(graphdef, state)
    return target_logprobs(model, hidden.reshape(-1, hidden.shape[-1]), scored, targets, count, chunk, mesh)

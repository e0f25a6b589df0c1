"""Log-likelihoods under many plans at once: every distinct prefix of layers is computed once per batch.

For each batch the prefix tree of the plans (`jaxpaint.plan_tree`) is walked depth first. A stretch of the tree runs
as data through one executable, whatever its layers and groups; the head runs where plans end. Hidden states are held
only where plans part, within a bound; beyond that a stretch is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxpaint import stack
from jaxpaint.compilation import jit
from jaxpaint.model import Model, layer_stack
from jaxpaint.packing import Batch, Request
from jaxpaint.plan import Node, Plan
from jaxpaint.plan_tree import Branch, prefix_tree
from jaxpaint.program import Program
from jaxpaint.score import head_chunk, pack_for, place, target_logprobs

# Bytes of hidden states held where plans part.
HELD_BYTES = {"cpu": 1 << 30, "accelerator": 8 << 30}
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
    """Scores requests under every plan: [plans, requests]. Equal to `jaxpaint.score.score` plan by plan.

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
    if held_bytes is None:
        held_bytes = HELD_BYTES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    state_bytes = batch.tokens.size * model.config.hidden_size * model.dtype.itemsize
    nesting = max(plan.nesting for plan in plans)
    under_way: deque[tuple[tuple[int, ...], tuple[Array, Array], int]] = deque()
    executed = 0
    for ends, output, cost in _walk(model, prefix_tree(plans), batch, nesting, held_bytes // state_bytes):
        executed += cost * batch.tokens.size
        if output is None:
            continue
        under_way.append((ends, output, executed))
        executed = 0
        if len(under_way) > PLANS_IN_FLIGHT:
            yield _collect(batch, *under_way.popleft())
    while under_way:
        yield _collect(batch, *under_way.popleft())


def _collect(batch: Batch, ends: tuple[int, ...], output: tuple[Array, Array], executed: int) -> PlanScores:
    loglikelihoods, is_greedy = batch.per_request(*(np.asarray(array) for array in output))
    return PlanScores(ends, np.where(np.isfinite(loglikelihoods), loglikelihoods, np.nan), is_greedy, executed)


def _walk(
    model: Model, tree: Branch, batch: Batch, nesting: int, held_states: int
) -> Iterator[tuple[tuple[int, ...], tuple[Array, Array] | None, int]]:
    """Yields (plans that end, their head's output, layer applications run for it), depth first."""
    x, context = _embed(model.graphdef, model.state, *place(model, batch), batch.lookback)
    chunk = head_chunk(model.config.vocab_size, batch.scored.size)

    def advance(x: Array | None, units: tuple[Node, ...]) -> tuple[Array | None, int]:
        if not units:
            return x, 0
        plan = Plan.of(*units)
        program = Program.of(plan)
        # One executable for series, one for groups: many stretches are short, and room for groups costs time.
        slots = 0 if plan.is_series else nesting
        x = _segment(model.graphdef, model.state, program.instructions, program.length, slots, x, context)
        return x, plan.cost

    def visit(
        branch: Branch, start: Array | None, anchor: Array | None, pending: tuple[Node, ...], held: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[Array, Array] | None, int]]:
        """The branch, from its own first state `start`; where that is None, from `pending` run on a held `anchor`.

        A state is dropped (set to None) as soon as no one needs it: frames of the walk outlive it.
        """
        x: Array | None
        x, cost = advance(start, branch.units) if start is not None else advance(anchor, (*pending, *branch.units))
        start = None
        pending = (*pending, *branch.units)
        output = None
        if branch.ends:
            output = _head(model.graphdef, model.state, chunk, model.mesh, x, batch.scored, batch.targets, batch.count)
        yield branch.ends, output, cost
        if held < held_states or len(branch.branches) == 1:
            anchor, pending = x, ()
        hold = anchor is x
        for number, child in enumerate(branch.branches):
            last = number == len(branch.branches) - 1
            rest = visit(child, x, anchor, pending, held + 1 if hold and not last else held)
            if last:
                x = anchor = None
            elif not hold:
                x = None
            yield from rest

    yield from visit(tree, x, x, (), 0)


@jit("graphdef", "lookback")
def _embed(graphdef, state, tokens, positions, visible_until, lookback):
    model = nnx.merge(graphdef, state)
    return model.embed(tokens), model.context(positions, visible_until, lookback)


@jit("graphdef", "nesting")
def _segment(graphdef, state, instructions, length, nesting, x, context):
    block, stacked = layer_stack(nnx.merge(graphdef, state))
    return stack.run_program(block, stacked, instructions, length, nesting, x, context)


@jit("graphdef", "chunk", "mesh")
def _head(graphdef, state, chunk, mesh, hidden, scored, targets, count):
    model = nnx.merge(graphdef, state)
    return target_logprobs(model, hidden.reshape(-1, hidden.shape[-1]), scored, targets, count, chunk, mesh)

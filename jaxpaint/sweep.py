"""Log-likelihoods under many plans at once: every distinct prefix of layers is computed once per batch.

For each batch the prefix tree of the plans (`jaxpaint.plan_tree`) is walked depth first. A stretch of the tree runs
as data through one executable, whatever its layers and groups; the head runs where plans end. Hidden states are held
only where plans part, at most `held_states` of them; beyond that a stretch is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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

HELD_STATES = 32
# Outputs under way before the host waits for the oldest.
PLANS_IN_FLIGHT = 2


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
    held_states: int = HELD_STATES,
    progress: Callable[[int], None] | None = None,
) -> SweepScores:
    """Scores requests under every plan: [plans, requests]. Equal to `jaxpaint.score.score` plan by plan.

    `progress` is called with the number of layer applications times positions just dispatched. Plans whose logits are
    not finite get NaN, and do not stop the others.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    for plan in plans:
        plan.validate(model.num_layers)
    if not plans:
        return SweepScores(np.zeros((0, len(requests))), np.ones((0, len(requests)), bool), 0, 0, 0)
    tree = prefix_tree(plans)
    nesting = max(Program.of(plan).nesting for plan in plans)
    batches = pack_for(model, requests, batch_tokens)
    totals = np.zeros((len(plans), len(requests)))
    greedy = np.ones((len(plans), len(requests)), bool)
    executed = 0

    def collect(batch: Batch, ends: tuple[int, ...], output: tuple[Array, Array]) -> None:
        logprobs, is_greedy = (np.asarray(array).reshape(-1)[batch.slots] for array in output)
        values = np.where(np.isfinite(logprobs), logprobs, np.nan).astype(np.float64)
        for index in ends:
            np.add.at(totals[index], batch.request_ids, values)
            np.logical_and.at(greedy[index], batch.request_ids, is_greedy)

    for batch in batches:
        under_way: deque[tuple[tuple[int, ...], tuple[Array, Array]]] = deque()
        for ends, output, cost in _walk(model, tree, batch, nesting, held_states):
            executed += cost * batch.tokens.size
            if output is not None:
                under_way.append((ends, output))
            if len(under_way) > PLANS_IN_FLIGHT:
                collect(batch, *under_way.popleft())
            if progress:
                progress(cost * batch.tokens.size)
        while under_way:
            collect(batch, *under_way.popleft())
    return SweepScores(
        totals,
        greedy,
        executed,
        distinct=tree.cost * sum(batch.real_tokens for batch in batches),
        separate=sum(plan.cost for plan in plans) * sum(len(request.tokens) for request in requests),
    )


def _walk(
    model: Model, tree: Branch, batch: Batch, nesting: int, held_states: int
) -> Iterator[tuple[tuple[int, ...], tuple[Array, Array] | None, int]]:
    """Yields (plans that end, their head's output, layer applications run for it), depth first."""
    tokens, positions, visible_until = place(model, batch)
    chunk = head_chunk(model.config.vocab_size, batch.scored.size)

    def advance(x: Array | None, units: tuple[Node, ...]) -> tuple[Array | None, int]:
        if not units:
            return x, 0
        plan = Plan.of(*units)
        program = Program.of(plan)
        layout = positions, visible_until
        x = _segment(model.graphdef, model.state, program.instructions, program.length, nesting, x, *layout)
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

    state = _embed(model.graphdef, model.state, tokens)
    yield from visit(tree, state, state, (), 0)


@jit("graphdef")
def _embed(graphdef, state, tokens):
    return nnx.merge(graphdef, state).embed(tokens)


@jit("graphdef", "nesting")
def _segment(graphdef, state, instructions, length, nesting, x, positions, visible_until):
    model = nnx.merge(graphdef, state)
    block, stacked = layer_stack(model)
    return stack.run_program(block, stacked, instructions, length, nesting, x, model.context(positions, visible_until))


@jit("graphdef", "chunk", "mesh")
def _head(graphdef, state, chunk, mesh, hidden, scored, targets, count):
    model = nnx.merge(graphdef, state)
    return target_logprobs(model, hidden.reshape(-1, hidden.shape[-1]), scored, targets, count, chunk, mesh)

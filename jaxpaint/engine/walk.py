"""The walk of the plans' tree, for all who read it: every distinct beginning of plans runs once per batch.

The prefix tree of the plans (`jaxpaint.plans.tree`) is walked depth first. `endings` carries a hidden state along: a
stretch of the tree runs as data through one executable, whatever its layers and groups, and states are held only where
plans part, within a bound; beyond that a stretch is computed again. Readers that also want what lies on the way carry
a state of their own through `walk`: analyses the path so far, generation the chunks of its prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.budgets import held_state_bytes, on_cpu
from jaxpaint.base.compilation import jit
from jaxpaint.base.memory import require_memory
from jaxpaint.engine import interpreted
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Batch
from jaxpaint.engine.program import enough_room
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.source import Source
from jaxpaint.engine.whole import start
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.plans import tree
from jaxpaint.plans.plan import Plan

State = TypeVar("State")
Arrays = TypeVar("Arrays")

# Hidden states alive beside a batch's first and those held: one that is computed, and what it is computed from.
LIVE_STATES = 2


class Start(NamedTuple):
    """A batch on the device: its first hidden state, and the context that layers read."""

    x: Float[Array, "B S D"]
    context: Any


def start_of_rows(model: Model, inputs: Inputs) -> Start:
    """Of right-padded rows, one text each."""
    return Start(*_embed_rows(model.graphdef, model.state, place(model, inputs)))


def start_of_stream(model: Model, batch: Batch) -> Start:
    """Of packed requests."""
    layout = place(model, (batch.tokens, batch.positions, batch.visible_until))
    return Start(*_embed_stream(model.graphdef, model.state, *layout, batch.lookback))


def shards(model: Model | Source) -> int:
    """How many devices share a batch's rows."""
    return model.mesh.shape[DATA] if model.mesh else 1


def place(model: Model, arrays: Arrays) -> Arrays:
    """The arrays with their rows spread over the model's devices."""
    return jax.device_put(arrays, rows(model.mesh)) if model.mesh else arrays


def endings(
    model: Model, start: Start, plans: Sequence[Plan], *, held_bytes: int | None = None
) -> Iterator[tuple[tuple[int, ...], Float[Array, "B S D"], int]]:
    """`walk` with the batch's hidden state, of which at most `held_bytes` (default: `held_state_bytes`) are held.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: the memory of a CPU's host does not hold the batch's states.
    """
    for plan in plans:
        plan.validate(model.num_layers)
    room = enough_room(plans)
    x, context = start
    held = held_state_bytes() if held_bytes is None else held_bytes
    if on_cpu():
        rows, positions = x.shape[:2]
        advice = "lower --batch-tokens, or allow the container or the job more (ulimit -v)"
        require_memory(LIVE_STATES * x.nbytes, f"a batch of {rows * positions} tokens", advice)

    def advance(x: Array, part: Plan, before: int) -> Array:
        instructions, length = as_data(part, model.mesh)
        # One executable for series, one for groups: many stretches are short, and room for groups costs time.
        own = 0 if part.is_series else room
        return segment(model.graphdef, model.state, instructions, length, own, x, context)

    return walk(plans, x, advance, held // x.nbytes)


def walk(
    plans: Sequence[Plan], start: State, advance: Callable[[State, Plan, int], State], held_states: int
) -> Iterator[tuple[tuple[int, ...], State, int]]:
    """Yields plans (by index) that end alike, the state after them, and the layer applications run since the last.

    Every plan comes up once. `advance(state, part, before)` is the state after `part`, which follows the first `before`
    layer applications of its plans; at most `held_states` are held at once (`jaxpaint.plans.tree.walk`). Let go of a
    state before asking for the next one.
    """
    if not plans:
        return
    steps = tree.walk(tree.prefix_tree(plans), start, advance, held_states)
    del start
    work = 0
    for branch, state, cost in steps:
        work += cost
        if branch.ends:
            yield branch.ends, state, work
            work = 0
        del state


@jit("graphdef")
def _embed_rows(graphdef, state, inputs):
    return start(nnx.merge(graphdef, state), inputs)


@jit("graphdef", "lookback")
def _embed_stream(graphdef, state, tokens, positions, visible_until, lookback):
    model = nnx.merge(graphdef, state)
    return model.embed(tokens, positions), model.context_of_texts(positions, visible_until, lookback)


@jit("graphdef", "room")
def segment(graphdef, state, instructions, length, room, x, context):
    block, stacked = layer_stack(nnx.merge(graphdef, state))
    return interpreted.run_program(block, stacked, instructions, length, room, x, context)

"""The last hidden states of rows of text under many plans: every distinct beginning of plans is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.engine import interpreted
from jaxpaint.engine.inputs import Inputs
from jaxpaint.engine.model import Model, layer_stack, start
from jaxpaint.engine.program import Program, room_for
from jaxpaint.models.sharding import rows
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree, walk


def last_states(
    model: Model, inputs: Inputs, plans: Sequence[Plan], *, held_bytes: int | None = None
) -> Iterator[tuple[tuple[int, ...], Float[Array, "B S D"]]]:
    """Yields plans (by index) that end alike, and the rows' hidden state after them; every plan comes up once.

    Three executables per shape of rows serve any number of plans. Let go of a state before asking for the next one.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    for plan in plans:
        plan.validate(model.num_layers)
    if not plans:
        return
    if model.mesh:
        inputs = jax.device_put(inputs, rows(model.mesh))
    room = max(room_for(plan) for plan in plans)
    x, context = _begin(model.graphdef, model.state, inputs)

    def advance(x: Array, part: Plan, before: int) -> Array:
        program = Program.of(part)
        own = 0 if part.is_series else room
        return _segment(model.graphdef, model.state, program.instructions, program.length, own, x, context)

    held = budgets().state_bytes if held_bytes is None else held_bytes
    steps = walk(prefix_tree(plans), x, advance, held // x.nbytes)
    del x
    for branch, state, _ in steps:
        if branch.ends:
            yield branch.ends, state
        del state


@jit("graphdef")
def _begin(graphdef, state, inputs):
    return start(nnx.merge(graphdef, state), inputs)


@jit("graphdef", "room")
def _segment(graphdef, state, instructions, length, room, x, context):
    block, stacked = layer_stack(nnx.merge(graphdef, state))
    return interpreted.run_program(block, stacked, instructions, length, room, x, context)

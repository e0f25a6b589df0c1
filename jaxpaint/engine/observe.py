"""A plan run step by step, with what lies on the way: one executable a kind of step serves every plan and every change.

A step is a layer or a whole parallel group; its program is data, as elsewhere, and so are the changes. What is asked
for of its events is written to arrays with a place for each; what is not asked for has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.compilation import jit
from jaxpaint.base.part import Portion
from jaxpaint.engine import interpreted
from jaxpaint.engine.edits import edit_of_state, edits_of
from jaxpaint.engine.interventions import Intervention
from jaxpaint.engine.layers import layer_parameters, run_layer
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import columns, enough_room, placed_instructions
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.walk import start_of_rows
from jaxpaint.models.observed import Asked, Edit, Edits, Found, edited
from jaxpaint.plans.events import Step

SMALLEST_PROGRAM = 16


class Passed(NamedTuple):
    """A state, and of the events of the step before it what was asked for: [events, B, ...] each."""

    state: Float[Array, "B S D"]
    found: dict[Found, Array]


def observe(
    model: Model, inputs: Inputs, steps: Sequence[Step], interventions: Sequence[Intervention], asked: Asked
) -> Iterator[Passed]:
    """The embeddings and then each step's state, interventions made, with what is `asked` of the step's events."""
    lengths, config = [int(length) for length in inputs.lengths], model.config
    width = inputs.tokens.shape[1], config.num_attention_heads, config.hidden_size
    x = _changed(start_of_rows(model, inputs).x, edit_of_state(0, interventions, lengths, width))
    yield Passed(x, {})
    for step in steps:
        size = 1 << (len(step.events) - 1).bit_length()
        edits = edits_of(step, interventions, size, lengths, width)
        instructions = placed_instructions(step.plan.root)
        length = max(SMALLEST_PROGRAM, 1 << (len(instructions) - 1).bit_length())
        padded = np.zeros((length, columns(step.plan)), np.int32)
        padded[: len(instructions)] = instructions[:, : columns(step.plan)]
        room = 0 if step.plan.is_series else enough_room([step.plan])
        own = model.graphdef, model.state, padded, len(instructions), room, x, inputs.lengths, edits
        x, found = _observed_step(*own, size, frozenset(asked))
        x = _changed(x, edit_of_state(step.number, interventions, lengths, width))
        yield Passed(x, {name: each[: len(step.events)] for name, each in found.items()})


def _changed(x: Float[Array, "B S D"], edit: Edit | None) -> Float[Array, "B S D"]:
    return x if edit is None else _edited(x, edit)


@jax.jit
def _edited(x, edit):
    return edited(x, edit)


@jit("graphdef", "room", "size", "asked")
def _observed_step(graphdef, state, instructions, length, room, x, lengths, edits, size, asked):
    model = nnx.merge(graphdef, state)
    if model.config.capabilities.decoder:
        model.kernel = None  # the others' masks can be changed
    context, kinds = model.row_context(lengths, x.shape[1]), getattr(model, "layer_kinds", None)
    layers, stacked = nnx.split(model.blocks)

    def block(parameters: Any, x: Array, context: Any, edits: Edits) -> tuple[Array, dict[Found, Array]]:
        return nnx.merge(layers, parameters).observed(x, context, edits, asked)

    def layer(index: Array, number: Array, _: Portion, x: Array, memory: dict[Found, Array]) -> tuple[Array, Any]:
        own = context if kinds is None else context.of_kind(jnp.array(kinds)[index])
        y, found = run_layer(block, stacked, index, x, own, jax.tree.map(lambda leaf: leaf[number], edits))
        return y, {name: memory[name].at[number].set(found[name]) for name in memory}

    first = context if kinds is None else context.of_kind(0)
    shapes = jax.eval_shape(lambda: block(layer_parameters(stacked, 0), x, first, Edits())[1])
    memory = {name: jnp.zeros((size, *each.shape), each.dtype) for name, each in shapes.items()}
    return interpreted.follow(layer, instructions, length, room, x, memory)

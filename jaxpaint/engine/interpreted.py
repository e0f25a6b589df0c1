"""The plan as data: one executable per batch shape follows the instructions of every plan (`jaxpaint.engine.program`).

`run_program` runs it over blocks as `jaxpaint.engine.compiled.run` does; `follow` also lets layers write to a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpaint.base.part import WHOLE, Portion
from jaxpaint.engine.compiled import Block, Context, combined, contribution, weighted
from jaxpaint.engine.lanes import Lanes, follow_each
from jaxpaint.engine.layers import Parameters, run_layer
from jaxpaint.engine.program import BRANCH, FORK, GATHER, IDLE, LAST, LAYER, MEAN, MEMBER, PARTS, SUM, WAIT, WEIGH
from jaxpaint.plans.nodes import attentions
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, Series, Weighted

Memory = TypeVar("Memory")

# `follow` lists what it does in this order.
assert tuple(range(-1, 10)) == (IDLE, LAYER, MEMBER, LAST, FORK, BRANCH, MEAN, SUM, WEIGH, GATHER, WAIT)


def run_program(
    block: Block,
    stacked: Parameters,
    instructions: Int[Array, "size columns"] | Lanes,
    length: Int[Array, ""],
    room: int,
    x: Float[Array, "B S D"],
    context: Context,
) -> Float[Array, "B S D"]:
    """The hidden state after the first `length` instructions of a `jaxpaint.engine.program.Program`, or of `Lanes`.

    Only `room` (`jaxpaint.engine.program.room_for`) and the shapes are static, so one executable runs every plan. Not
    reverse-differentiable: the number of steps is known only when it runs.
    """

    def run(instructions, gather, stacked, length, x, context):
        def layer(index, number, portion, x, memory):
            return run_layer(block, stacked, index, x, context, portion=portion), memory

        return follow(layer, instructions, length, room, x, (), gather)[0]

    if isinstance(instructions, Lanes):
        return follow_each(instructions, run, stacked, length, x, context)
    return run(instructions, None, stacked, length, x, context)


def follow(
    layer: Callable[[Array, Array, Portion, Array, Memory], tuple[Array, Memory]],
    instructions: Int[Array, "size columns"],
    length: Int[Array, ""],
    room: int,
    x: Float[Array, "B S D"],
    memory: Memory,
    gather: Callable[[Array], Array] | None = None,
) -> tuple[Float[Array, "B S D"], Memory]:
    """`(x, memory)` after a program whose layers also write to a memory, such as their keys and values.

    `layer(index, number, portion, x, memory)` runs that portion of the layer `index`; `number` counts the attentions
    run before it, so it tells a repeated layer's runs apart. `gather` is the sum over all lanes, where the program is
    one lane's.
    """

    def run(i, x, memory):
        index, number = instructions[i, 1], instructions[i, 2]
        if instructions.shape[1] == 4:
            return layer(index, number, WHOLE, x, memory)
        beside = instructions[i, 5] if instructions.shape[1] == 6 else None
        portions = [Portion(part, beside if part == "mlp" else None) for part in PARTS]
        return jax.lax.switch(instructions[i, 4], [partial(layer, index, number, each) for each in portions], x, memory)

    def is_layer(i):
        return (i < length) & (instructions[i, 0] <= LAST)

    def in_series(state):
        i, x, memory = state
        return i + 1, *run(i, x, memory)

    if room == 0:
        return jax.lax.while_loop(lambda state: is_layer(state[0]), in_series, (0, x, memory))[1:]

    def in_series_or_group(state):
        i, x, memory, total = state
        opcode, count = instructions[i, 0], instructions[i, 3]
        output, memory = run(i, x, memory)
        # The arithmetic of all three opcodes at once: it is small beside a layer, and a branch would copy its operands.
        wide, summed = x.astype(jnp.float32), count < 0
        sum_of_all = total + (output.astype(jnp.float32) - jnp.where(summed, wide, 0.0))
        joined = jnp.where(summed, wide + sum_of_all, sum_of_all / count).astype(x.dtype)
        y = jnp.where(opcode == LAYER, output, jnp.where(opcode == MEMBER, x, joined))
        return i + 1, y, memory, jnp.where(opcode == MEMBER, sum_of_all, 0.0)

    if gather is not None:
        return _follow_lane(in_series_or_group, instructions, length, room, x, memory, gather)

    def stretch(i, x, memory):
        """Runs layers and groups of layers up to the first instruction that is neither."""
        total = jnp.zeros(x.shape, jnp.float32)
        return jax.lax.while_loop(lambda state: is_layer(state[0]), in_series_or_group, (i, x, memory, total))[:3]

    if room == 1:
        return stretch(0, x, memory)[1:]

    def step(state):
        # A stretch carries no group's state, the switch one group's and no memory: each copies what it carries.
        i, x, memory, inputs, totals = state
        i, x, memory = stretch(i, x, memory)
        opcode, slot, count = jnp.where(i < length, instructions[jnp.minimum(i, length - 1), :3], 0)
        x, fork_input, total = jax.lax.switch(
            jnp.maximum(opcode - LAST, 0),
            [_nothing, _fork, _branch, _join("mean"), _join("sum"), _weigh],
            *(x, inputs[slot], totals[slot], count),
        )
        return i + 1, x, memory, inputs.at[slot].set(fork_input), totals.at[slot].set(total)

    inputs = jnp.zeros((room - 1, *x.shape), x.dtype)
    totals = jnp.zeros((room - 1, *x.shape), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < length, step, (0, x, memory, inputs, totals))[1:3]


def _follow_lane(one_layer, instructions, length, room, x, memory, gather):
    """As `follow`, in step with other lanes (`jaxpaint.engine.lanes`); `one_layer` is of its states."""

    def or_idle(state):
        after, y, memory, kept = one_layer(state)
        i, x, _, total = state
        idle = instructions[i, 0] == IDLE
        return after, jnp.where(idle, x, y), memory, jnp.where(idle, total, kept)

    def stretch(*state):
        return jax.lax.while_loop(
            lambda state: (state[0] < length) & (instructions[state[0], 0] <= LAST), or_idle, state
        )

    def running(state):
        return state[0] < length

    nothing, gathered = jnp.zeros(x.shape, jnp.float32), _gathered(gather)
    if room == 1:

        def layers_and_gather(state):
            i, x, memory, total = stretch(*state, nothing)
            count = instructions[jnp.minimum(i, length - 1), 2]
            x = jax.lax.cond(i < length, lambda: gathered(x, x, total, count)[0], lambda: x)
            return i + 1, x, memory

        return jax.lax.while_loop(running, layers_and_gather, (0, x, memory))[1:]

    def step(state):
        i, x, memory, inputs, totals, members = state
        i, x, memory, members = stretch(i, x, memory, members)
        opcode, slot, count = jnp.where(i < length, instructions[jnp.minimum(i, length - 1), :3], 0)
        # While one lane forks, another is between two members of a group.
        ends = opcode == GATHER
        x, fork_input, total = jax.lax.switch(
            jnp.maximum(opcode - LAST, 0),
            [_nothing, _fork, _branch, _join("mean"), _join("sum"), _weigh, gathered, _nothing],
            *(x, inputs[slot], totals[slot] + jnp.where(ends, members, 0.0), count),
        )
        inputs, totals = inputs.at[slot].set(fork_input), totals.at[slot].set(total)
        return i + 1, x, memory, inputs, totals, jnp.where(ends, 0.0, members)

    inputs = jnp.zeros((room - 1, *x.shape), x.dtype)
    totals = jnp.zeros((room - 1, *x.shape), jnp.float32)
    return jax.lax.while_loop(running, step, (0, x, memory, inputs, totals, nothing))[1:3]


# What joins and parts a group's branches: `(x, fork_input, total, count) -> (x, fork_input, total)` of its slot.


def _nothing(x, fork_input, total, count):
    return x, fork_input, total


def _fork(x, fork_input, total, count):
    return x, x, jnp.zeros_like(total)


def _branch(x, fork_input, total, count):
    output = x.astype(jnp.float32) - count * fork_input.astype(jnp.float32)
    return fork_input, fork_input, total + output


def _join(how):
    def apply(x, fork_input, total, count):
        total += contribution(how, x, fork_input)
        return combined(how, total, fork_input, count), fork_input, total

    return apply


def _weigh(x, fork_input, total, count):
    """The weight's bits are those of a number in float32."""
    return weighted(jax.lax.bitcast_convert_type(count, jnp.float32), x, fork_input), fork_input, total


def _gathered(gather):
    def apply(x, fork_input, total, count):
        whole = gather(total)
        mean, added = combined("mean", whole, x, jnp.maximum(count, 1)), combined("sum", whole, x, count)
        return jnp.where(count < 0, added, mean), fork_input, jnp.zeros_like(total)

    return apply


def follow_plan(
    layer: Callable[[int, int, Portion, Array, Memory], tuple[Array, Memory]],
    plan: Plan,
    x: Float[Array, "B S D"],
    memory: Memory,
) -> tuple[Float[Array, "B S D"], Memory]:
    """As `follow`, with the plan itself compiled, every layer by itself: nothing is indexed while it runs."""
    number = 0

    def visit(node: Node, x: Array) -> Array:
        nonlocal number, memory
        match node:
            case Layer(index, part, beside):
                x, memory = layer(index, number, Portion(part, beside), x, memory)
                number += attentions(node)
            case Series(items):
                for item in items:
                    x = visit(item, x)
            case Repeat(body, times):
                for _ in range(times):
                    x = visit(body, x)
            case Parallel(branches, how):
                total = jnp.zeros(x.shape, jnp.float32)
                for branch in branches:
                    total += contribution(how, visit(branch, x), x)
                x = combined(how, total, x, len(branches))
            case Weighted(body, weight):
                x = weighted(weight, visit(body, x), x)
        return x

    return visit(plan.root, x), memory

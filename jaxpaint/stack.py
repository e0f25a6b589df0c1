"""The executors: a layer plan over blocks whose parameters are stacked along a leading layer axis.

Three ways to run the same plan, tested equal:

- `run` compiles the plan itself: series become scans, parallel groups a `vmap` over the stacked layers, repeats
  a scan. Differentiable. One executable per plan.
- `run_program` takes the plan as data (`jaxpaint.program`): one executable per batch shape for every plan.
- `run_slowly` is plain Python, layer by layer: the oracle of the other two.

A block is a pure function `(parameters of one layer, x, context) -> x`, residual connections included, whatever the
model. A parallel group's outputs are summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any, TypeAlias, TypeVar, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.plan import Layer, Node, Parallel, Plan, Repeat, Series
from jaxpaint.program import BRANCH, FORK, LAYER, MEAN, SUM

Parameters: TypeAlias = Any
Context = TypeVar("Context")
Block: TypeAlias = Callable[[Parameters, Array, Context], Array]


def layer_parameters(stacked: Parameters, index: int | Int[Array, ""]) -> Parameters:
    """One layer's parameters out of the stacked tree; `index` may be traced."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)


# --- The plan compiled ------------------------------------------------------------------------------------


def run(
    block: Block, stacked: Parameters, plan: Plan, x: Float[Array, "B S D"], context: Context, *, at_once: bool = True
):
    """The hidden state [B, S, D] after the plan. `plan` is static: call under `jax.jit` with it closed over.

    Without `at_once` the branches of a parallel group run one after the other, as suits a CPU: it has no room to run
    them at once, and its batched matrix products are slower and add up in another order than single ones.
    """
    return run_with_states(block, stacked, plan, x, context, at_once=at_once)[0]


def run_with_states(
    block: Block, stacked: Parameters, plan: Plan, x: Float[Array, "B S D"], context: Context, *, at_once: bool = True
):
    """`(x, states)`: the result and the hidden states along the plan, [1 + steps, B, S, D], the input first.

    A step is a layer, or a whole parallel group, of the top-level series; repeats are unrolled, so that a looped
    parallel block has one state per iteration. The paper's Figures 3 and 15 compare such states.
    """

    def apply(node: Node, layers: Int[Array, " leaves"], x: Array) -> tuple[Array, Array]:
        """The result of a node whose layer indices are `layers`, in order, and the states [steps, ...] within."""
        match node:
            case Layer():
                x = block(layer_parameters(stacked, layers[0]), x, context)
                return x, x[None]
            case Repeat(body, times):
                x, states = jax.lax.scan(lambda x, _: apply(body, layers, x), x, length=times)
                return x, states.reshape(-1, *x.shape)
            case Series(items):
                return apply_series(items, layers, x)
            case Parallel(branches, combine):
                total = jnp.zeros(x.shape, jnp.float32)
                for members, member_layers in _alike(branches, layers, adjacent=False):
                    if at_once:
                        outputs, _ = jax.vmap(partial(apply, members[0]), in_axes=(0, None))(member_layers, x)
                    else:
                        outputs, _ = jax.lax.map(partial(step, members[0], x), member_layers)
                    total += _contribution(combine, outputs, x).sum(axis=0)
                x = _combine(combine, total, x, len(branches))
                return x, x[None]

    def step(node: Node, x: Array, layers: Int[Array, " leaves"]) -> tuple[Array, Array]:
        return apply(node, layers, x)

    def apply_series(items: Sequence[Node], layers: Int[Array, " leaves"], x: Array) -> tuple[Array, Array]:
        collected = []
        for members, member_layers in _alike(items, layers, adjacent=True):
            if len(members) == 1:
                x, states = apply(members[0], member_layers[0], x)
            else:
                x, states = jax.lax.scan(partial(step, members[0]), x, member_layers)
                states = states.reshape(-1, *x.shape)
            collected.append(states)
        return x, jnp.concatenate(collected)

    result, states = apply_series(plan.root.items, jnp.array(list(_leaves(plan.root)), jnp.int32), x)
    return result, jnp.concatenate([x[None], states])


def _combine(combine: str, total: Array, x: Array, count: int | Int[Array, ""]) -> Array:
    """Mean of the branch outputs, or the input plus the sum of the branches' residual updates."""
    if combine == "mean":
        return (total / count).astype(x.dtype)
    return (x.astype(jnp.float32) + total).astype(x.dtype)


def _contribution(combine: str, output: Array, x: Array) -> Array:
    """What a branch adds to its group's total, in float32: its output, or its residual update of the input x."""
    output = output.astype(jnp.float32)
    return output if combine == "mean" else output - x.astype(jnp.float32)


def _leaves(node: Node):
    """The layer indices of a node in the order they are written."""
    match node:
        case Layer(index):
            yield index
        case Series(children) | Parallel(children):
            for child in children:
                yield from _leaves(child)
        case Repeat(body):
            yield from _leaves(body)


def _shape(node: Node) -> tuple:
    """A node with its layer indices left out: nodes of one shape differ only in data, so they share code."""
    match node:
        case Layer():
            return ("layer",)
        case Series(items):
            return ("series", *map(_shape, items))
        case Parallel(branches, combine):
            return (combine, *map(_shape, branches))
        case Repeat(body, times):
            return ("repeat", times, _shape(body))


def _alike(nodes: Sequence[Node], layers, *, adjacent: bool):
    """Groups nodes of one shape, neighbours only where order matters; yields (nodes, layer indices [n, leaves])."""
    stops = np.cumsum([0, *(sum(1 for _ in _leaves(node)) for node in nodes)])
    pieces = [layers[start:stop] for start, stop in pairwise(stops)]
    indexed = [(_shape(node), node, piece) for node, piece in zip(nodes, pieces, strict=True)]
    if not adjacent:
        indexed.sort(key=lambda item: repr(item[0]))
    for _, group in groupby(indexed, key=lambda item: item[0]):
        members = list(group)
        yield [node for _, node, _ in members], jnp.stack([leaves for _, _, leaves in members])


# --- The plan as data -------------------------------------------------------------------------------------


def run_program(
    block: Block,
    stacked: Parameters,
    instructions: Int[Array, "size 3"],
    length: Int[Array, ""],
    nesting: int,
    x: Float[Array, "B S D"],
    context: Context,
) -> Float[Array, "B S D"]:
    """The hidden state after the first `length` instructions of a `jaxpaint.program.Program`.

    Only `nesting` and the shapes are static, so one executable runs every plan. Not reverse-differentiable: the
    number of steps is known only when it runs.
    """

    def stretch(i, x):
        """Runs layers up to the first instruction that is not one."""

        def more(state):
            return (state[0] < length) & (instructions[state[0], 0] == LAYER)

        def layer(state):
            i, x = state
            return i + 1, block(layer_parameters(stacked, instructions[i, 1]), x, context)

        return jax.lax.while_loop(more, layer, (i, x))

    if nesting == 0:
        return stretch(0, x)[1]

    def nothing(x, fork_input, total, count):
        return x, fork_input, total

    def fork(x, fork_input, total, count):
        return x, x, jnp.zeros_like(total)

    def branch(x, fork_input, total, count):
        output = x.astype(jnp.float32) - count * fork_input.astype(jnp.float32)
        return fork_input, fork_input, total + output

    def join(combine):
        def apply(x, fork_input, total, count):
            total += _contribution(combine, x, fork_input)
            return _combine(combine, total, fork_input, count), fork_input, total

        return apply

    def step(state):
        # A stretch of layers carries the hidden state alone, the switch one group's: each copies what it carries.
        i, x, inputs, totals = state
        i, x = stretch(i, x)
        opcode, slot, count = jnp.where(i < length, instructions[jnp.minimum(i, length - 1)], 0)
        x, fork_input, total = jax.lax.switch(
            opcode, [nothing, fork, branch, join("mean"), join("sum")], x, inputs[slot], totals[slot], count
        )
        return i + 1, x, inputs.at[slot].set(fork_input), totals.at[slot].set(total)

    inputs = jnp.zeros((nesting, *x.shape), x.dtype)
    totals = jnp.zeros((nesting, *x.shape), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < length, step, (0, x, inputs, totals))[1]


assert (LAYER, FORK, BRANCH, MEAN, SUM) == (0, 1, 2, 3, 4), "run_program lists what it does in the order of the opcodes"


# --- The slow twin ----------------------------------------------------------------------------------------


def run_slowly(block: Block, stacked: Parameters, plan: Plan, x: Float[Array, "B S D"], context: Context):
    """`(x, states)` as `run_with_states`, in plain Python, one layer after the other."""

    def apply(node: Node, x: Array) -> tuple[Array, list[Array]]:
        match node:
            case Layer(index):
                x = block(jax.tree.map(lambda leaf: leaf[index], stacked), x, context)
                return x, [x]
            case Series(items):
                states: list[Array] = []
                for item in items:
                    x, inner = apply(item, x)
                    states += inner
                return x, states
            case Repeat(body, times):
                return apply(Series((body,) * times), x)
            case Parallel(branches, combine):
                outputs = jnp.stack([apply(branch, x)[0].astype(jnp.float32) for branch in branches])
                y = outputs.mean(axis=0) if combine == "mean" else x + (outputs - x).sum(axis=0)
                return y.astype(x.dtype), [y.astype(x.dtype)]
            case _:
                assert_never(node)

    result, states = apply(plan.root, x)
    return result, jnp.stack([x, *states])

"""The executors: a layer plan over blocks whose parameters are stacked along a leading layer axis.

Three ways to run the same plan, tested equal:

- `run` compiles the plan itself: series become scans, parallel groups a `vmap` over the stacked layers, repeats
  a scan. Differentiable. One executable per plan. `run_training` is the same with dropout.
- `run_program` takes the plan as data (`jaxpaint.engine.program`): one executable per batch shape for every plan.
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
from jaxtyping import Array, Float, Int, Shaped

from jaxpaint.engine.program import BRANCH, FORK, LAST, LAYER, MEAN, MEMBER, SUM
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, Series

Parameters: TypeAlias = Any
Context = TypeVar("Context")
Memory = TypeVar("Memory")
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

    def layer(index: Int[Array, ""], key: Array | None, x: Array) -> Array:
        return block(layer_parameters(stacked, index), x, context)

    result, states = _walk(layer, lambda x: x[None], plan, _layers(plan), None, x, at_once)
    return result, jnp.concatenate([x[None], states])


def with_own_layers(plan: Plan) -> tuple[Plan, Int[Array, " leaves"]]:
    """`(form, layers)`: the plan with its layers counted in the order they are written, and which layers those are.

    Plans that differ in nothing but their layers have one form, and so one executable of `run_training`.
    """
    count = iter(range(plan.cost))

    def counted(node: Node) -> Node:
        match node:
            case Layer():
                return Layer(next(count))
            case Series(items):
                return Series(tuple(map(counted, items)))
            case Parallel(branches, combine):
                return Parallel(tuple(map(counted, branches)), combine)
            case Repeat(body, times):
                return Repeat(counted(body), times)

    return Plan.of(counted(plan.root)), _layers(plan)


def run_training(
    block: Callable[[Parameters, Array, Context, Array | None], Array],
    stacked: Parameters,
    form: Plan,
    layers: Int[Array, " leaves"] | None,
    x: Float[Array, "B S D"],
    context: Context,
    key: Array | None,
    *,
    at_once: bool = True,
    unroll: bool = False,
    remat: bool = False,
):
    """As `run`, for a plan given as `with_own_layers` does, and made to be differentiated.

    The block's last argument is a key of its own for everything that runs, each iteration of a repeat included, so
    that no two draw the same dropout; None without a `key`. The parameters are taken out of the stack once, so that
    their gradient is put together once. With `remat` a layer's insides are computed again on the way back rather
    than kept. With `unroll` every layer that runs is compiled by itself: what the way back needs is then not copied
    into arrays of all layers, a third of the time on a CPU.
    """
    own = stacked
    if layers is not None:
        own = jax.tree.map(lambda leaf: leaf.at[layers].get(mode="promise_in_bounds"), stacked)

    def layer(leaf: tuple[Parameters, Array], key: Array | None, x: Array) -> Array:
        parameters, number = leaf
        return block(parameters, x, context, None if key is None else jax.random.fold_in(key, number))

    layer = jax.checkpoint(layer) if remat else layer
    count = jax.tree.leaves(own)[0].shape[0]
    return _walk(layer, lambda x: (), form, (own, jnp.arange(count)), key, x, at_once, unroll)[0]


def _walk(
    layer: Callable[[Any, Array | None, Array], Array],
    keep: Callable[[Array], Any],
    plan: Plan,
    leaves: Any,
    key: Array | None,
    x: Array,
    at_once: bool,
    unroll: bool = False,
) -> tuple[Array, Any]:
    """`(x, states)` after a plan of `layer(leaf, key, x) -> x`.

    `leaves` is a tree of arrays whose leading axis is the layers of the plan in the order they are written; a repeat
    folds the number of its iteration into the key. `keep` makes of a state what is collected along a leading axis.
    """

    scan = partial(jax.lax.scan, unroll=unroll)

    def apply(node: Node, leaves: Any, key: Array | None, x: Array) -> tuple[Array, Any]:
        match node:
            case Layer():
                x = layer(leaves, key, x)
                return x, keep(x)
            case Repeat(body, times):
                x, states = scan(partial(iterate, body, _for(body, leaves), key), x, jnp.arange(times))
                return x, _joined(states)
            case Series(items):
                collected = []
                for members, parts in _alike(items, leaves, adjacent=True):
                    if len(members) == 1:
                        x, states = apply(members[0], jax.tree.map(lambda leaf: leaf[0], parts), key, x)
                    else:
                        x, states = scan(partial(step, members[0], key), x, parts)
                        states = _joined(states)
                    collected.append(states)
                return x, jax.tree.map(lambda *states: jnp.concatenate(states), *collected)
            case Parallel(branches, combine):
                total = jnp.zeros(x.shape, jnp.float32)
                for members, parts in _alike(branches, leaves, adjacent=False):
                    branch = partial(step, members[0], key, x)
                    outputs = jax.vmap(branch)(parts)[0] if at_once else scan(partial(one_more, branch), (), parts)[1]
                    total += _contribution(combine, outputs, x).sum(axis=0)
                x = _combine(combine, total, x, len(branches))
                return x, keep(x)

    def iterate(node: Node, leaves: Any, key: Array | None, x: Array, number: Array) -> tuple[Array, Any]:
        return apply(node, leaves, None if key is None else jax.random.fold_in(key, number), x)

    def step(node: Node, key: Array | None, x: Array, leaves: Any) -> tuple[Array, Any]:
        return apply(node, leaves, key, x)

    def one_more(branch: Callable[[Any], tuple[Array, Any]], before: tuple[()], leaves: Any) -> tuple[tuple[()], Array]:
        return before, branch(leaves)[0]

    return apply(plan.root, _for(plan.root, leaves), key, x)


def _for(node: Node, leaves: Any) -> Any:
    """A node's leaves as it takes them: a layer its own, without the axis of length 1."""
    return jax.tree.map(lambda leaf: leaf[0], leaves) if isinstance(node, Layer) else leaves


def _joined(states: Any) -> Any:
    """The two leading axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)


def _combine(combine: str, total: Array, x: Array, count: int | Int[Array, ""]) -> Array:
    """Mean of the branch outputs, or the input plus the sum of the branches' residual updates."""
    if combine == "mean":
        return (total / count).astype(x.dtype)
    return (x.astype(jnp.float32) + total).astype(x.dtype)


def _contribution(combine: str, output: Array, x: Array) -> Array:
    """What a branch adds to its group's total, in float32: its output, or its residual update of the input x."""
    output = output.astype(jnp.float32)
    return output if combine == "mean" else output - x.astype(jnp.float32)


def _layers(plan: Plan) -> Int[Array, " leaves"]:
    return jnp.array(list(_leaves(plan.root)), jnp.int32)


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


def _alike(nodes: Sequence[Node], leaves: Any, *, adjacent: bool):
    """Groups nodes of one shape, neighbours only where order matters; yields (nodes, their leaves [n, own, ...]).

    Those of layers are [n, ...]: a gradient that only passes through needs no copy to change its shape.
    """
    stops = np.cumsum([0, *(sum(1 for _ in _leaves(node)) for node in nodes)])
    indexed = [(_shape(node), node, np.arange(*span)) for node, span in zip(nodes, pairwise(stops), strict=True)]
    if not adjacent:
        indexed.sort(key=lambda item: repr(item[0]))
    for _, group in groupby(indexed, key=lambda item: item[0]):
        members = list(group)
        own = np.stack([span for _, _, span in members])
        own = own[:, 0] if isinstance(members[0][1], Layer) else own
        yield [node for _, node, _ in members], jax.tree.map(partial(_taken, own), leaves)


def _taken(own: Int[np.ndarray, "*own"], leaf: Shaped[Array, "leaves ..."]) -> Shaped[Array, "*own ..."]:
    """`leaf[own]`, without indexing where it is a slice, and as it is where it is all of it."""
    first, last = own.flat[0], own.flat[-1] + 1
    if np.array_equal(own.ravel(), np.arange(first, last)):
        part = leaf if last - first == leaf.shape[0] else leaf[first:last]
        return part if own.ndim == 1 else part.reshape(*own.shape, *leaf.shape[1:])
    return leaf[own]


# --- The plan as data -------------------------------------------------------------------------------------


def run_program(
    block: Block,
    stacked: Parameters,
    instructions: Int[Array, "size 4"],
    length: Int[Array, ""],
    room: int,
    x: Float[Array, "B S D"],
    context: Context,
) -> Float[Array, "B S D"]:
    """The hidden state after the first `length` instructions of a `jaxpaint.engine.program.Program`.

    Only `room` (`jaxpaint.engine.program.room_for`) and the shapes are static, so one executable runs every plan. Not
    reverse-differentiable: the number of steps is known only when it runs.
    """

    def layer(index, number, x, memory):
        return block(layer_parameters(stacked, index), x, context), memory

    return follow(layer, instructions, length, room, x, ())[0]


def follow(
    layer: Callable[[Array, Array, Array, Memory], tuple[Array, Memory]],
    instructions: Int[Array, "size 4"],
    length: Int[Array, ""],
    room: int,
    x: Float[Array, "B S D"],
    memory: Memory,
) -> tuple[Float[Array, "B S D"], Memory]:
    """`(x, memory)` after a program whose layers also write to a memory, such as their keys and values.

    `layer(index, number, x, memory)` runs the layer `index`; `number` counts the layers run before it, so it tells
    a repeated layer's runs apart.
    """

    def is_layer(i):
        return (i < length) & (instructions[i, 0] <= LAST)

    def in_series(state):
        i, x, memory = state
        return i + 1, *layer(instructions[i, 1], instructions[i, 2], x, memory)

    if room == 0:
        return jax.lax.while_loop(lambda state: is_layer(state[0]), in_series, (0, x, memory))[1:]

    def in_series_or_group(state):
        i, x, memory, total = state
        opcode, index, number, count = instructions[i]
        output, memory = layer(index, number, x, memory)
        # The arithmetic of all three opcodes at once: it is small beside a layer, and a branch would copy its operands.
        wide, summed = x.astype(jnp.float32), count < 0
        sum_of_all = total + (output.astype(jnp.float32) - jnp.where(summed, wide, 0.0))
        joined = jnp.where(summed, wide + sum_of_all, sum_of_all / count).astype(x.dtype)
        y = jnp.where(opcode == LAYER, output, jnp.where(opcode == MEMBER, x, joined))
        return i + 1, y, memory, jnp.where(opcode == MEMBER, sum_of_all, 0.0)

    def stretch(i, x, memory):
        """Runs layers and groups of layers up to the first instruction that is neither."""
        total = jnp.zeros(x.shape, jnp.float32)
        return jax.lax.while_loop(lambda state: is_layer(state[0]), in_series_or_group, (i, x, memory, total))[:3]

    if room == 1:
        return stretch(0, x, memory)[1:]

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
        # A stretch carries no group's state, the switch one group's and no memory: each copies what it carries.
        i, x, memory, inputs, totals = state
        i, x, memory = stretch(i, x, memory)
        opcode, slot, count, _ = jnp.where(i < length, instructions[jnp.minimum(i, length - 1)], 0)
        x, fork_input, total = jax.lax.switch(
            jnp.maximum(opcode - LAST, 0),
            [nothing, fork, branch, join("mean"), join("sum")],
            *(x, inputs[slot], totals[slot], count),
        )
        return i + 1, x, memory, inputs.at[slot].set(fork_input), totals.at[slot].set(total)

    inputs = jnp.zeros((room - 1, *x.shape), x.dtype)
    totals = jnp.zeros((room - 1, *x.shape), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < length, step, (0, x, memory, inputs, totals))[1:3]


OPCODES = (LAYER, MEMBER, LAST, FORK, BRANCH, MEAN, SUM)
assert list(OPCODES) == list(range(7)), "`follow` lists what it does in the order of the opcodes"


def follow_plan(
    layer: Callable[[int, int, Array, Memory], tuple[Array, Memory]],
    plan: Plan,
    x: Float[Array, "B S D"],
    memory: Memory,
) -> tuple[Float[Array, "B S D"], Memory]:
    """As `follow`, with the plan itself compiled, every layer by itself: nothing is indexed while it runs."""
    number = 0

    def visit(node: Node, x: Array) -> Array:
        nonlocal number, memory
        match node:
            case Layer(index):
                x, memory = layer(index, number, x, memory)
                number += 1
            case Series(items):
                for item in items:
                    x = visit(item, x)
            case Repeat(body, times):
                for _ in range(times):
                    x = visit(body, x)
            case Parallel(branches, combine):
                total = jnp.zeros(x.shape, jnp.float32)
                for branch in branches:
                    total += _contribution(combine, visit(branch, x), x)
                x = _combine(combine, total, x, len(branches))
        return x

    return visit(plan.root, x), memory


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

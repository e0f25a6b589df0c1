"""The plan compiled: a layer plan over blocks whose parameters are stacked along a leading layer axis.

Series become scans, parallel groups a `vmap` over the stacked layers, repeats a scan: `run`, and `run_training`, which
is the same with dropout. Differentiable. One executable per plan, where `jaxpaint.engine.interpreted` has one for all.

A block is a pure function `(parameters of one layer, x, context) -> x`, residual connections included, whatever the
model; with `part="attention"` or `"mlp"` it runs that sublayer, with `beside` through a norm that it shares with
the layer of those parameters. A parallel group's outputs are summed in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from jaxpaint.base.part import Portion
from jaxpaint.engine.layers import Parameters, of_part, run_layer
from jaxpaint.models.sharding import LAYER, each_lane, lanes, with_lanes
from jaxpaint.plans.nodes import (
    Combine,
    Layer,
    Node,
    Parallel,
    Repeat,
    Series,
    Weighted,
    fold,
    map_layers,
    written_layers,
)
from jaxpaint.plans.plan import Plan

Context = TypeVar("Context")
Block: TypeAlias = Callable[[Parameters, Array, Context], Array]
# What one of a plan's layers is: `(leaf, key, x, node) -> x`. The leaf of one beside another is of both.
Run: TypeAlias = Callable[[Any, Array | None, Array, Layer], Array]


def run(
    block: Block,
    stacked: Parameters,
    plan: Plan,
    x: Float[Array, "B S D"],
    context: Context,
    *,
    at_once: bool = True,
    mesh: Mesh | None = None,
):
    """The hidden state [B, S, D] after the plan. `plan` is static: call under `jax.jit` with it closed over.

    Without `at_once` the branches of a parallel group run one after the other, as suits a CPU: it has no room to run
    them at once, and its batched matrix products are slower and add up in another order than single ones. With a `mesh`
    that has lanes (`jaxpaint.engine.lanes`) each of them runs a share of an outermost group's branches.
    """
    return run_with_states(block, stacked, plan, x, context, at_once=at_once, mesh=mesh)[0]


def run_with_states(
    block: Block,
    stacked: Parameters,
    plan: Plan,
    x: Float[Array, "B S D"],
    context: Context,
    *,
    at_once: bool = True,
    mesh: Mesh | None = None,
):
    """`(x, states)`: the result and the hidden states along the plan, [1 + steps, B, S, D], the input first.

    A step is a layer, or a whole parallel group, of the top-level series; repeats are unrolled, so that a looped
    parallel block has one state per iteration. The paper's Figures 3 and 15 compare such states.
    """

    def layer(shared: tuple[Parameters, Context]) -> Run:
        stacked, context = shared

        def run(place: Array, key: Array | None, x: Array, node: Layer) -> Array:
            shared = node.beside is not None
            portion = Portion(node.part, place[1] if shared else None)
            return run_layer(block, stacked, place[0] if shared else place, x, context, portion=portion)

        return run

    shared = stacked, context
    result, states = _walk(layer, shared, lambda x: x[None], plan, _layers(plan), None, x, at_once, mesh=mesh)
    return result, jnp.concatenate([x[None], states])


def with_own_layers(plan: Plan) -> tuple[Plan, Int[Array, " leaves"]]:
    """`(form, layers)`: the plan with its layers counted in the order they are written, and which layers those are.

    Plans that differ in nothing but their layers have one form, and so one executable of `run_training`.
    """
    count = itertools.count()
    return Plan.of(map_layers(plan.root, lambda _: next(count))), _layers(plan)


def run_training(
    block: Callable[..., Array],
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
    mesh: Mesh | None = None,
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

    def layer(context: Context) -> Run:
        def run(leaf: tuple[Parameters, Array], key: Array | None, x: Array, node: Layer) -> Array:
            parameters, number = leaf
            run_part = of_part(block, node.part)
            if node.beside is not None:
                (parameters, number), (beside, _) = (jax.tree.map(lambda each, i=i: each[i], leaf) for i in (0, 1))
                run_part = partial(run_part, beside=beside)
            return run_part(parameters, x, context, None if key is None else jax.random.fold_in(key, number))

        return jax.checkpoint(run, static_argnums=3) if remat else run

    count = jax.tree.leaves(own)[0].shape[0]
    return _walk(layer, context, lambda x: (), form, (own, jnp.arange(count)), key, x, at_once, unroll, mesh)[0]


def _walk(
    layer: Callable[[Any], Run],
    shared: Any,
    keep: Callable[[Array], Any],
    plan: Plan,
    leaves: Any,
    key: Array | None,
    x: Array,
    at_once: bool,
    unroll: bool = False,
    mesh: Mesh | None = None,
) -> tuple[Array, Any]:
    """`(x, states)` after a plan of `layer(shared)(leaf, key, x, node) -> x`.

    `leaves` is a tree of arrays whose leading axis is the layers of the plan in the order they are written; a repeat
    folds the number of its iteration into the key. `keep` makes of a state what is collected along a leading axis.
    """
    return _walker(layer, shared, keep, at_once, unroll, with_lanes(mesh))(plan.root, _for(plan.root, leaves), key, x)


def _walker(
    layer: Callable[[Any], Run],
    shared: Any,
    keep: Callable[[Array], Any],
    at_once: bool,
    unroll: bool,
    mesh: Mesh | None,
) -> Callable[[Node, Any, Array | None, Array], tuple[Array, Any]]:
    """`(node, leaves, key, x) -> (x, states)`, arguments as `_walk`'s; a mesh has lanes."""

    scan, run_layer = partial(jax.lax.scan, unroll=unroll), layer(shared)

    def apply(node: Node, leaves: Any, key: Array | None, x: Array) -> tuple[Array, Any]:
        match node:
            case Layer():
                x = run_layer(leaves, key, x, node)
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
                alike = _alike(branches, leaves, adjacent=False)
                if mesh is not None:
                    walker = partial(_walker, layer, keep=keep, at_once=at_once, unroll=unroll, mesh=None)
                    total = _over_lanes(mesh, walker, alike, combine, (shared, key, x), scan)
                    alike = ()
                for members, parts in alike:
                    branch = partial(step, members[0], key, x)
                    if at_once:
                        total += contribution(combine, jax.vmap(branch)(parts)[0], x).sum(axis=0)
                    else:
                        total = scan(partial(one_more, combine, branch, x), total, parts)[0]
                x = combined(combine, total, x, len(branches))
                return x, keep(x)
            case Weighted(body, weight):
                x = weighted(weight, apply(body, _for(body, leaves), key, x)[0], x)
                return x, keep(x)

    def iterate(node: Node, leaves: Any, key: Array | None, x: Array, number: Array) -> tuple[Array, Any]:
        return apply(node, leaves, None if key is None else jax.random.fold_in(key, number), x)

    def step(node: Node, key: Array | None, x: Array, leaves: Any) -> tuple[Array, Any]:
        return apply(node, leaves, key, x)

    def one_more(how: Combine, branch: Callable[[Any], tuple[Array, Any]], x: Array, total: Array, leaves: Any):
        return total + contribution(how, branch(leaves)[0], x), ()

    return apply


def _over_lanes(mesh: Mesh, walker: Any, alike: Any, combine: Combine, given: Any, scan: Any) -> Array:
    """What a group's branches add up to, each lane running its share of those of one shape, and one sum in the end.

    `given` are `shared`, the key and x: arguments, since arrays of all devices have no place within a lane.
    """
    nodes, parts, busy = [], [], []
    for members, leaves in alike:
        padding = -len(members) % lanes(mesh)
        nodes.append(members[0])
        parts.append(jax.tree.map(partial(_repeating_last, padding), leaves))
        busy.append(jnp.arange(len(members) + padding) < len(members))

    def of_lane(parts: Any, busy: Any, shared: Any, key: Array | None, x: Array) -> Array:
        run = walker(shared=shared)
        total = jnp.zeros(x.shape, jnp.float32)
        for node, own, is_busy in zip(nodes, parts, busy, strict=True):

            def one_more(total: Array, branch: Any, node: Node = node) -> tuple[Array, tuple[()]]:
                leaves, is_busy = branch
                return total + jnp.where(is_busy, contribution(combine, run(node, leaves, key, x)[0], x), 0.0), ()

            total = scan(one_more, total, (own, is_busy))[0]
        return jax.lax.psum(total, LAYER)

    everywhere, own = PartitionSpec(), PartitionSpec(LAYER)
    return each_lane(mesh, of_lane, (own, own, *[everywhere] * 3), everywhere)(parts, busy, *given)


def _repeating_last(times: int, leaf: Array) -> Array:
    """An idle lane has something to compute; its layer is as good as another."""
    return jnp.pad(leaf, [(0, times), *[(0, 0)] * (leaf.ndim - 1)], mode="edge") if times else leaf


def _for(node: Node, leaves: Any) -> Any:
    """A node's leaves as it takes them: a layer its own, without the axis of length 1."""
    return jax.tree.map(lambda leaf: leaf[0], leaves) if _has_one(node) else leaves


def _has_one(node: Node) -> bool:
    """Whether the node is a layer that takes one leaf."""
    return isinstance(node, Layer) and node.beside is None


def _joined(states: Any) -> Any:
    """The two leading axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)


def combined(how: Combine, total: Array, x: Array, count: int | Int[Array, ""]) -> Array:
    """Mean of the branch outputs, or the input plus the sum of the branches' residual updates."""
    if how == "mean":
        return (total / count).astype(x.dtype)
    return (x.astype(jnp.float32) + total).astype(x.dtype)


def contribution(how: Combine, output: Array, x: Array) -> Array:
    """What a branch adds to its group's total, in float32: its output, or its residual update of the input x."""
    output = output.astype(jnp.float32)
    return output if how == "mean" else output - x.astype(jnp.float32)


def weighted(weight: float | Float[Array, ""], output: Array, x: Array) -> Array:
    """The input plus the weighted residual update of what read it, summed in float32."""
    return combined("sum", weight * contribution("sum", output, x), x, 1)


def _layers(plan: Plan) -> Int[Array, " leaves"]:
    return jnp.array(written_layers(plan.root), jnp.int32)


def _shape(node: Node) -> tuple:
    """A node with its layer indices left out: nodes of one shape differ only in data, so they share code."""
    return fold(
        node,
        layer=lambda layer: ("layer", layer.part, layer.beside is not None),
        series=lambda _, shapes: ("series", *shapes),
        parallel=lambda group, shapes: (group.combine, *shapes),
        repeat=lambda node, shape: ("repeat", node.times, shape),
        weighted=lambda node, shape: ("weighted", node.weight, shape),
    )


def _alike(nodes: Sequence[Node], leaves: Any, *, adjacent: bool):
    """Groups nodes of one shape, neighbours only where order matters; yields (nodes, their leaves [n, own, ...]).

    Those of layers are [n, ...]: a gradient that only passes through needs no copy to change its shape.
    """
    stops = np.cumsum([0, *(len(written_layers(node)) for node in nodes)])
    indexed = [(_shape(node), node, np.arange(*span)) for node, span in zip(nodes, pairwise(stops), strict=True)]
    if not adjacent:
        indexed.sort(key=lambda item: repr(item[0]))
    for _, group in groupby(indexed, key=lambda item: item[0]):
        members = list(group)
        own = np.stack([span for _, _, span in members])
        own = own[:, 0] if _has_one(members[0][1]) else own
        yield [node for _, node, _ in members], jax.tree.map(partial(_taken, own), leaves)


def _taken(own: Int[np.ndarray, "*own"], leaf: Shaped[Array, "leaves ..."]) -> Shaped[Array, "*own ..."]:
    """`leaf[own]`, without indexing where it is a slice, and as it is where it is all of it."""
    first, last = own.flat[0], own.flat[-1] + 1
    if np.array_equal(own.ravel(), np.arange(first, last)):
        part = leaf if last - first == leaf.shape[0] else leaf[first:last]
        return part if own.ndim == 1 else part.reshape(*own.shape, *leaf.shape[1:])
    return leaf[own]

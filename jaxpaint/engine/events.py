"""A plan as a matrix: which layers run, and what share of whose updates each of them reads. Bounded and differentiable.

Whatever a plan's groups and repeats, each time a layer runs (an event) it reads the input plus a weighted sum of the
updates that the events before it wrote, where an update is the layer's output less what it read:

    x_i = x + sum over j < i of weights[i, j] * update_j,     update_i = layer_i(x_i) - x_i

Series give weights of 1, a mean of n branches 1/n, what is weighted its weight, groups in groups their product; row
`size` is the plan's result. So one executable of `size` events differentiates every plan of at most so many, and
`vmap` takes a batch of plans, where `jaxpaint.engine.interpreted` has no gradient and a `switch` would run every branch
of every lane.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.engine.compiled import Block, Context
from jaxpaint.engine.layers import Parameters, run_layer
from jaxpaint.plans.nodes import Layer, Node, Parallel, Repeat, Series, Weighted
from jaxpaint.plans.plan import Plan


class Events(NamedTuple):
    """`layers` [size] run in this order; `weights` [size + 1, size] say whose updates each reads, and the result."""

    layers: Int[np.ndarray | Array, "*plans size"]
    weights: Float[np.ndarray | Array, "*plans result size"]


def events_of(plan: Plan, size: int | None = None) -> Events:
    """The plan's events, `size` of them (as many as it has unless given): those to spare run layer 0, unread.

    Raises ValueError for a plan of more.
    """
    plan.of_whole_layers("a plan as a matrix")
    size = plan.applications if size is None else size
    if plan.applications > size:
        raise ValueError(f"the plan {plan} runs {plan.applications} layers, more than {size}")
    layers: list[int] = []
    weights = np.zeros((size + 1, size), np.float64)

    def visit(node: Node, state: np.ndarray) -> np.ndarray:
        match node:
            case Layer(index):
                weights[len(layers)] = state
                state = state + (np.arange(size) == len(layers))
                layers.append(index)
            case Series(items):
                for item in items:
                    state = visit(item, state)
            case Repeat(body, times):
                for _ in range(times):
                    state = visit(body, state)
            case Parallel(branches, combine):
                added = sum(visit(branch, state) - state for branch in branches)
                state = state + (added / len(branches) if combine == "mean" else added)
            case Weighted(body, weight):
                state = state + weight * (visit(body, state) - state)
        return state

    weights[size] = visit(plan.root, np.zeros(size))
    return Events(np.array(layers + [0] * (size - len(layers)), np.int32), weights.astype(np.float32))


def stacked_events(plans: Iterable[Plan], size: int | None = None) -> Events:
    """The events of several plans, along a leading axis, as many of each as the costliest plan has unless given."""
    plans = list(plans)
    size = max(plan.applications for plan in plans) if size is None else size
    layers, weights = zip(*(events_of(plan, size) for plan in plans), strict=True)
    return Events(np.stack(layers), np.stack(weights))


def run_events(
    block: Block, stacked: Parameters, events: Events, x: Float[Array, "B S D"], context: Context, own: Any = ()
) -> Float[Array, "B S D"]:
    """The hidden state after a plan's events, as `jaxpaint.engine.compiled.run` of the plan gives it up to rounding.

    `own` are further inputs of the block, arrays that have each event's along their first axis. Events are compiled one
    by one: the way back then keeps each event's state once, and the first event's input, where nothing before it is
    differentiated, gets no gradient.
    """
    return event_states(block, stacked, events, x, context, own)[-1]


def event_states(
    block: Block, stacked: Parameters, events: Events, x: Float[Array, "B S D"], context: Context, own: Any = ()
) -> list[Float[Array, "B S D"]]:
    """What each event reads, in order, and last the plan's result; arguments as `run_events`."""
    states: list[Array] = []
    updates: list[Array] = []
    for number in range(events.layers.shape[-1]):
        states.append(_read(x, events.weights[number], updates))
        layer = jnp.asarray(events.layers)[number]
        of_event = jax.tree.map(lambda leaf, number=number: leaf[number], own)
        updates.append(run_layer(block, stacked, layer, states[-1], context, *of_event) - states[-1])
    return [*states, _read(x, events.weights[-1], updates)]


def _read(x: Array, weights: Array, updates: list[Array]) -> Array:
    for number, update in enumerate(updates):
        x = x + weights[number] * update
    return x

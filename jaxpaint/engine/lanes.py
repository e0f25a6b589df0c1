"""A plan over lanes of devices: the members of a parallel group run side by side, and one all-reduce ends the group.

A lane is a place along a mesh's axis `layer` (`jaxpaint.models.sharding`). Series run on every lane alike, so nothing
is sent for them. Of an outermost group each lane runs some of the branches, as they are written, and adds them up in
float32; then the lanes' sums are added. With a lane for each branch that is the latency that a parallel plan promises:
its depth, and not its cost.

Each lane follows instructions of its own (`jaxpaint.engine.program`), and all of them in step: where one runs a layer
the others run one too or are idle, where one forks or joins the others wait. So the loops end together, and the
collectives of weights that are split within a lane meet. For these the lanes also run the same part of a layer at a
time, whole layers, attentions or feed-forwards. An idle lane computes what another one does and drops it.

    {a b c d e} over 2 lanes                 {(a b) (c {d e}) f} over 2 lanes, the longest branch first
    lane 0   a  c  e     GATHER              FORK  c  d     e     BRANCH  GATHER
    lane 1   b  d  idle  GATHER              FORK  a  b  BRANCH  f  BRANCH  GATHER
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from jaxpaint.engine.program import (
    BRANCH,
    FORK,
    GATHER,
    IDLE,
    LAST,
    LAYER,
    MEMBER,
    PARTS,
    WAIT,
    WEIGH,
    Instruction,
    Program,
    group_members,
    padded_size,
    part_numbers,
    placed_instructions,
    weight_bits,
)
from jaxpaint.engine.program import (
    columns as program_columns,
)
from jaxpaint.models import sharding
from jaxpaint.plans.nodes import Layer, Node, Parallel, Weighted, attentions, cost, units
from jaxpaint.plans.plan import Plan


@partial(jax.tree_util.register_dataclass, data_fields=["instructions"], meta_fields=["mesh"])
@dataclass(frozen=True)
class Lanes:
    """A program for each lane of the mesh, in place of a `Program`'s instructions."""

    instructions: Int[Array, "lanes size columns"]
    mesh: Mesh


def as_data(plan: Plan, mesh: Mesh | None) -> tuple[Any, int]:
    """`(instructions, length)` for devices of a mesh: those of `Program`, or `Lanes` where the mesh has some."""
    if mesh is None or sharding.lanes(mesh) == 1:
        program = Program.of(plan)
        return program.instructions, program.length
    columns, width = columns_on(plan, mesh), program_columns(plan)
    instructions = np.zeros((sharding.lanes(mesh), padded_size(len(columns)), width), np.int32)
    instructions[:, : len(columns)] = np.swapaxes(np.array(columns, np.int32)[..., :width], 0, 1)
    return Lanes(jax.device_put(instructions, sharding.by_lane(mesh)), mesh), len(columns)


def layer_steps(plan: Plan, mesh: Mesh) -> int:
    """How many layers and sublayers run one after the other."""
    return sum(column[0][0] <= LAST for column in columns_on(plan, mesh))


def columns_on(plan: Plan, mesh: Mesh) -> list[Sequence[Instruction]]:
    """`columns_of` for the mesh's lanes; of one part each, where devices share the weights of a lane."""
    return columns_of(plan, sharding.lanes(mesh), one_part=mesh.shape[sharding.MODEL] > 1)


def columns_of(plan: Plan, lanes: int, *, one_part: bool = False) -> list[Sequence[Instruction]]:
    """What the lanes do in step: columns of an instruction for each lane, in the order that they run.

    With `one_part` all lanes of a column run the same part of their layers.
    """
    return _columns(plan.root, 0, 0, lanes, one_part)


def _columns(node: Node, number: int, slot: int, lanes: int, one_part: bool) -> list[Sequence[Instruction]]:
    """Of a part of the plan, `number` attentions into it, with `slot` weights around it."""
    columns: list[Sequence[Instruction]] = []
    for unit in units(node):
        match unit:
            case Layer():
                columns.append([(LAYER, unit.index, number, 0, *part_numbers(unit))] * lanes)
            case Weighted(body):
                within = _columns(body, number, slot + 1, lanes, one_part)
                weigh = (WEIGH, slot, weight_bits(unit), 0, 0, 0)
                columns += [[(FORK, slot, 0, 0, 0, 0)] * lanes, *within, [weigh] * lanes]
            case Parallel():
                of_group = _of_layers if group_members(unit) else _of_branches
                columns += of_group(unit, number, slot, lanes, one_part)
        number += attentions(unit)
    return columns


def _of_layers(group: Parallel, number: int, slot: int, lanes: int, one_part: bool) -> list[Sequence[Instruction]]:
    count = len(group.branches)
    signed = -count if group.combine == "sum" else count
    steps: list[Instruction] = []
    for layer in group_members(group):
        steps.append((MEMBER, layer.index, number, signed, *part_numbers(layer)))
        number += attentions(layer)
    of_parts = [[step for step in steps if _part(step) == part] for part in range(len(PARTS))] if one_part else [steps]
    columns: list[Sequence[Instruction]] = []
    for alike in of_parts:
        for first in range(0, len(alike), lanes):
            busy = alike[first : first + lanes]
            columns.append(_all(busy + [None] * (lanes - len(busy))))
    # Such a group needs no slot: the one around it has a sum of zero, and keeps it.
    return [*columns, [(GATHER, max(0, slot - 1), signed, 0, 0, 0)] * lanes]


def _of_branches(group: Parallel, number: int, slot: int, lanes: int, one_part: bool) -> list[Sequence[Instruction]]:
    summed, count = group.combine == "sum", len(group.branches)
    costs = [cost(branch) for branch in group.branches]
    places: list[int] = (number + np.cumsum([0, *map(attentions, group.branches)])).tolist()
    streams: list[list[Instruction]] = [[] for _ in range(lanes)]
    for lane, own in enumerate(dealt(costs, lanes)):
        for branch in own:
            steps = placed_instructions(group.branches[branch], places[branch], slot + 1)
            streams[lane] += [*map(tuple, steps.tolist()), (BRANCH, slot, int(summed), 0, 0, 0)]  # type: ignore[misc]
    gather = (GATHER, slot, -count if summed else count, 0, 0, 0)
    return [[(FORK, slot, 0, 0, 0, 0)] * lanes, *_in_step(streams, one_part), [gather] * lanes]


def dealt(costs: Sequence[float], lanes: int) -> list[list[int]]:
    """Which branches each lane runs: the longest first, each to the lane with the least to do."""
    own: list[list[int]] = [[] for _ in range(lanes)]
    load = [0.0] * lanes
    for branch in sorted(range(len(costs)), key=lambda branch: -costs[branch]):
        lane = load.index(min(load))
        own[lane].append(branch)
        load[lane] += costs[branch]
    return own


def _in_step(streams: list[list[Instruction]], one_part: bool) -> list[Sequence[Instruction]]:
    """Columns of the lanes' own streams. As many run a layer as the longest has, since forks and joins go first.

    With `one_part` there may be more: the part that runs is that of the lane with the most to come.
    """
    places, columns = [0] * len(streams), []
    while any(place < len(stream) for place, stream in zip(places, streams, strict=True)):
        heads = [stream[place] if place < len(stream) else None for place, stream in zip(places, streams, strict=True)]
        joining = any(head is not None and head[0] > LAST for head in heads)
        taken = [head if head is not None and (head[0] > LAST) == joining else None for head in heads]
        if one_part and not joining:
            ahead = max(
                range(len(streams)), key=lambda lane: (taken[lane] is not None, len(streams[lane]) - places[lane])
            )
            part = _part(taken[ahead])
            taken = [head if head is not None and _part(head) == part else None for head in taken]
        places = [place + (head is not None) for place, head in zip(places, taken, strict=True)]
        columns.append([head or (WAIT, 0, 0, 0, 0, 0) for head in taken] if joining else _all(taken))
    return columns


def _part(step: Instruction | None) -> int:
    """The place in `PARTS` of what it runs of a layer."""
    assert step is not None
    return step[4]


def _all(column: Sequence[Instruction | None]) -> Sequence[Instruction]:
    """Lanes without a layer do what the first that has one does: where it writes, no one reads on theirs."""
    _, index, number, _, *part = next(step for step in column if step is not None)
    return [step or (IDLE, index, number, 0, *part) for step in column]  # type: ignore[misc]


def follow_each(lanes: Lanes, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(instructions, gather, *arguments)` on every lane: its own instructions, and the sum over all lanes.

    Arguments and results are the same on all lanes.
    """

    def of_lane(instructions: Array, gather: Any, own: Any, *arguments: Any) -> Any:
        return function(instructions, gather, *arguments), own

    return follow_each_with(lanes, of_lane, (), *arguments)[0]


def follow_each_with(lanes: Lanes, function: Callable[..., Any], own: Any, *arguments: Any) -> tuple[Any, Any]:
    """`(result, own)` of `function(instructions, gather, own, *arguments)` on every lane.

    As `follow_each`, with arrays that are each lane's own, such as keys and values of its layers: their leading axis is
    the lanes, and `function` has them without it.
    """

    def of_lane(instructions: Array, own: Any, *arguments: Any) -> tuple[Any, Any]:
        without = jax.tree.map(lambda leaf: leaf[0], own)
        result, own = function(instructions[0], gather, without, *arguments)
        return result, jax.tree.map(lambda leaf: leaf[None], own)

    everywhere, of_each = PartitionSpec(), PartitionSpec(sharding.LAYER)
    specs = of_each, of_each, *[everywhere] * len(arguments)
    return sharding.each_lane(lanes.mesh, of_lane, specs, (everywhere, of_each))(lanes.instructions, own, *arguments)


def gather(x: Array) -> Array:
    """The sum over all lanes."""
    return jax.lax.psum(x, sharding.LAYER)

"""A plan as runtime data: a short list of instructions that one compiled executable can follow for any plan.

A parallel group of single layers, the paper's, needs no more than a running sum beside the hidden state `x`:

    LAYER   layer, number         x = layer(x)
    MEMBER  layer, number, count  sum += layer(x)           (`number` counts the attentions run before: a cache's place)
    LAST    layer, number, count  x = (sum + layer(x)) / count; sum = 0

A negative count says that residual updates are summed: `sum += layer(x) - x`, and in the end `x += sum`. Groups whose
branches are more than a layer keep, per nesting level ("slot"), their input and a running sum:

    FORK    slot           input[slot] = x; sums[slot] = 0
    BRANCH  slot, updates  sums[slot] += x - updates * input[slot]; x = input[slot]    (a branch ends, another follows)
    MEAN    slot, count    x = (sums[slot] + x) / count               (the last branch ends)
    SUM     slot, count    x = input[slot] + (sums[slot] + (x - input[slot]))

What is weighted keeps its input in such a slot too:

    WEIGH   slot, weight   x = input[slot] + weight * (x - input[slot])    (the weight as the bits of a float32)

Three more are for lanes of devices that share a group's members (`jaxpaint.engine.lanes`):

    IDLE    layer, number  nothing: other lanes run a layer
    GATHER  slot, count    x = the sum over all lanes of (sums[slot] + sum) / count, or x plus it for a negative count
    WAIT                   nothing: other lanes fork or join

Where a plan runs sublayers each instruction has a fifth number, the place in `PARTS` of what of the layer runs, and
where some share norms a sixth, the layer whose norm a feed-forward shares. Plans of whole layers have none, and an
executable of their own: it has no branches for parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from jaxpaint.base.part import Part
from jaxpaint.plans.nodes import MAX_NESTING, Layer, Node, Parallel, Weighted, fold
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    import numpy as np

IDLE, LAYER, MEMBER, LAST, FORK, BRANCH, MEAN, SUM, WEIGH, GATHER, WAIT = range(-1, 10)
Instruction: TypeAlias = tuple[int, int, int, int, int, int]
PARTS: tuple[Part, ...] = ("whole", "attention", "mlp")
MLP = PARTS.index("mlp")
_NOTHING = (0,) * 5
# Executables are compiled for a program's padded size and its room, so all but extreme programs share one.
SMALLEST_SIZE = 65536
ROOMS = (5, MAX_NESTING + 1)


@dataclass(frozen=True)
class Program:
    """`instructions` [size, columns] int32 (opcode, layer or slot, number or count, count, …), of which `length` run.

    `room` is what is set aside for groups, at least `room_for` the plan: few different numbers, for few executables.
    """

    instructions: np.ndarray
    length: int
    room: int

    @classmethod
    def of(cls, plan: Plan) -> Program:
        import numpy as np

        steps = placed_instructions(plan.root)
        instructions = np.zeros((padded_size(len(steps)), columns(plan)), np.int32)
        instructions[: len(steps)] = steps[:, : columns(plan)]
        return cls(instructions, len(steps), next(room for room in ROOMS if room >= room_for(plan)))


def padded_size(length: int) -> int:
    """Room for so many instructions: few different numbers."""
    return max(SMALLEST_SIZE, 1 << (length - 1).bit_length())


def placed_instructions(node: Node, number: int = 0, slot: int = 0) -> np.ndarray:
    """What runs, in order: [steps, 6]. `number` attentions run before it, `slot` groups with slots are around it."""
    import numpy as np

    steps = np.array(_instructions(node), np.int32)
    opcodes = steps[:, 0]
    layers, others = np.flatnonzero(opcodes <= LAST), np.flatnonzero(opcodes > LAST)
    attends = steps[layers, 4] != MLP
    steps[layers, 2] = number + np.cumsum(attends) - attends
    # A group's slot is the number of groups around it: those that have begun and not ended, without itself.
    begun, ended = np.cumsum(opcodes[others] == FORK), np.cumsum(opcodes[others] >= MEAN)
    steps[others, 1] = slot + begun - ended - (opcodes[others] < MEAN)
    return steps


def columns(plan: Plan) -> int:
    """How many numbers an instruction of the plan has."""
    return 6 if plan.shares_norms else 5 if plan.has_sublayers else 4


def enough_room(plans: Iterable[Plan]) -> int:
    """What all of the plans fit: few different numbers too, yet none for series, and a sum alone for groups of layers.

    For batches whose hidden state is large: room for nesting is several times its memory.
    """
    needed = max(map(room_for, plans), default=0)
    return next(room for room in (0, 1, *ROOMS) if room >= needed)


def room_for(plan: Plan) -> int:
    """What a plan's groups need beside the hidden state: nothing (0), a running sum (1), or also slots (1 + slots)."""
    return fold(
        plan.root,
        layer=lambda _: 0,
        series=lambda _, rooms: max(rooms),
        parallel=lambda group, rooms: 1 if group_members(group) else max(2, 1 + max(rooms)),
        repeat=lambda _, room: room,
        weighted=lambda _, room: max(2, 1 + room),
    )


def group_members(group: Parallel) -> list[Layer]:
    """The layers of a group whose branches are single layers; none of any other group."""
    layers = [branch for branch in group.branches if isinstance(branch, Layer)]
    return layers if len(layers) == len(group.branches) else []


def _instructions(node: Node) -> list[Instruction]:
    """What runs, in order, but for what depends on the place: layers' numbers and groups' slots."""
    return fold(
        node,
        layer=lambda layer: [(LAYER, layer.index, 0, 0, *part_numbers(layer))],
        series=lambda _, parts: list(chain.from_iterable(parts)),
        parallel=_group,
        repeat=lambda node, body: body * node.times,
        weighted=lambda node, body: [(FORK, *_NOTHING), *body, (WEIGH, 0, weight_bits(node), 0, 0, 0)],
    )


def part_numbers(layer: Layer) -> tuple[int, int]:
    """The last two of an instruction."""
    return PARTS.index(layer.part), layer.index if layer.beside is None else layer.beside


def weight_bits(node: Weighted) -> int:
    """Those of the weight as a float32, as an int32."""
    import numpy as np

    return int(np.float32(node.weight).view(np.int32))


def _group(group: Parallel, branches: Iterator[list[Instruction]]) -> list[Instruction]:
    summed, count = group.combine == "sum", len(group.branches)
    if members := group_members(group):
        signed = -count if summed else count
        opcodes = [MEMBER] * (count - 1) + [LAST]
        return [
            (opcode, layer.index, 0, signed, *part_numbers(layer))
            for opcode, layer in zip(opcodes, members, strict=True)
        ]
    first, *others = branches
    steps = [(FORK, *_NOTHING), *first]
    for branch in others:
        steps += [(BRANCH, 0, int(summed), 0, 0, 0), *branch]
    return [*steps, (SUM if summed else MEAN, 0, count, 0, 0, 0)]

"""A plan as runtime data: a short list of instructions that one compiled executable can follow for any plan.

A parallel group of single layers, the paper's, needs no more than a running sum beside the hidden state `x`:

    LAYER   layer, number         x = layer(x)
    MEMBER  layer, number, count  sum += layer(x)           (`number` counts the layers run before: a cache's place)
    LAST    layer, number, count  x = (sum + layer(x)) / count; sum = 0

A negative count says that residual updates are summed: `sum += layer(x) - x`, and in the end `x += sum`. Groups whose
branches are more than a layer keep, per nesting level ("slot"), their input and a running sum:

    FORK    slot           input[slot] = x; sums[slot] = 0
    BRANCH  slot, updates  sums[slot] += x - updates * input[slot]; x = input[slot]    (a branch ends, another follows)
    MEAN    slot, count    x = (sums[slot] + x) / count               (the last branch ends)
    SUM     slot, count    x = input[slot] + (sums[slot] + (x - input[slot]))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from jaxpaint.plans.plan import MAX_NESTING, Layer, Node, Parallel, Plan, Repeat, Series

if TYPE_CHECKING:
    import numpy as np

LAYER, MEMBER, LAST, FORK, BRANCH, MEAN, SUM = range(7)
Instruction: TypeAlias = tuple[int, int, int, int]
# Executables are compiled for a program's padded size and its room, so all but extreme programs share one.
SMALLEST_SIZE = 65536
ROOMS = (5, MAX_NESTING + 1)


@dataclass(frozen=True)
class Program:
    """`instructions` [size, 4] int32 (opcode, layer or slot, number or count, count), the first `length` of which run.

    `room` is what is set aside for groups, at least `room_for` the plan: few different numbers, for few executables.
    """

    instructions: np.ndarray
    length: int
    room: int

    @classmethod
    def of(cls, plan: Plan) -> Program:
        import numpy as np

        steps = list(_instructions(plan.root, 0))
        size = max(SMALLEST_SIZE, 1 << (len(steps) - 1).bit_length())
        instructions = np.zeros((size, 4), np.int32)
        instructions[: len(steps)] = steps
        layers = np.flatnonzero(instructions[: len(steps), 0] <= LAST)
        instructions[layers, 2] = np.arange(len(layers))
        return cls(instructions, len(steps), next(room for room in ROOMS if room >= room_for(plan)))


def room_for(plan: Plan) -> int:
    """What a plan's groups need beside the hidden state: nothing (0), a running sum (1), or also slots (1 + slots)."""

    def visit(node: Node) -> int:
        match node:
            case Layer():
                return 0
            case Series(items):
                return max(map(visit, items))
            case Repeat(body):
                return visit(body)
            case Parallel() if _members(node):
                return 1
            case Parallel(branches):
                return max(2, 1 + max(map(visit, branches)))

    return visit(plan.root)


def _members(group: Parallel) -> list[int]:
    """The layers of a group whose branches are single layers; none of any other group."""
    layers = [branch.index for branch in group.branches if isinstance(branch, Layer)]
    return layers if len(layers) == len(group.branches) else []


def _instructions(node: Node, slot: int) -> Iterator[Instruction]:
    match node:
        case Layer(index):
            yield LAYER, index, 0, 0
        case Series(items):
            for item in items:
                yield from _instructions(item, slot)
        case Repeat(body, times):
            yield from list(_instructions(body, slot)) * times
        case Parallel(branches, combine) if members := _members(node):
            count = len(branches) if combine == "mean" else -len(branches)
            yield from ((MEMBER, index, 0, count) for index in members[:-1])
            yield LAST, members[-1], 0, count
        case Parallel(branches, combine):
            yield FORK, slot, 0, 0
            for branch in branches[:-1]:
                yield from _instructions(branch, slot + 1)
                yield BRANCH, slot, int(combine == "sum"), 0
            yield from _instructions(branches[-1], slot + 1)
            yield (MEAN if combine == "mean" else SUM), slot, len(branches), 0
        case _:
            assert_never(node)

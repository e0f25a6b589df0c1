"""A plan as runtime data: a short list of instructions that one compiled executable can follow for any plan.

The instructions work on a hidden state `x` and, per nesting level ("slot") of parallel groups, the group's input
and a running sum of its branches:

    LAYER   layer          x = layer(x)
    FORK    slot           input[slot] = x; sum[slot] = 0
    BRANCH  slot, updates  sum[slot] += x - updates * input[slot]; x = input[slot]    (a branch ends, another follows)
    MEAN    slot, count    x = (sum[slot] + x) / count               (the last branch ends)
    SUM     slot, count    x = input[slot] + (sum[slot] + (x - input[slot]))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from jaxpaint.plan import MAX_NESTING, Layer, Node, Parallel, Plan, Repeat, Series

if TYPE_CHECKING:
    import numpy as np

LAYER, FORK, BRANCH, MEAN, SUM = range(5)
Instruction: TypeAlias = tuple[int, int, int]
# Executables are compiled for a program's padded size and number of slots, so all but extreme programs share one.
SMALLEST_SIZE = 65536
SLOTS = (4, MAX_NESTING)


@dataclass(frozen=True)
class Program:
    """`instructions` [size, 3] int32 (opcode, layer or slot, count), of which the first `length` are run.

    `nesting` slots are set aside, at least as many as parallel groups nest: few different numbers, for few executables.
    """

    instructions: np.ndarray
    length: int
    nesting: int

    @classmethod
    def of(cls, plan: Plan) -> Program:
        import numpy as np

        steps = list(_instructions(plan.root, 0))
        size = max(SMALLEST_SIZE, 1 << (len(steps) - 1).bit_length())
        instructions = np.zeros((size, 3), np.int32)
        instructions[: len(steps)] = steps
        return cls(instructions, len(steps), next(slots for slots in SLOTS if slots >= plan.nesting))


def _instructions(node: Node, slot: int) -> Iterator[Instruction]:
    match node:
        case Layer(index):
            yield LAYER, index, 0
        case Series(items):
            for item in items:
                yield from _instructions(item, slot)
        case Repeat(body, times):
            yield from list(_instructions(body, slot)) * times
        case Parallel(branches, combine):
            yield FORK, slot, 0
            for branch in branches[:-1]:
                yield from _instructions(branch, slot + 1)
                yield BRANCH, slot, int(combine == "sum")
            yield from _instructions(branches[-1], slot + 1)
            yield (MEAN if combine == "mean" else SUM), slot, len(branches)
        case _:
            assert_never(node)

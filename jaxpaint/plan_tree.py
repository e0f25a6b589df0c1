"""Plans that begin alike, as a prefix tree: what they share is computed once.

A plan is cut into units, the steps of its series with repeats unrolled: a layer, or a whole parallel group. Two
plans have the same hidden states until their units part, so a walk of the tree runs each distinct prefix once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxpaint.plan import Node, Plan, Repeat, Series


@dataclass(frozen=True)
class Branch:
    """Units that run one after the other, the plans (by index) that end after them, and what goes on from there."""

    units: tuple[Node, ...]
    ends: tuple[int, ...]
    branches: tuple[Branch, ...]

    @cached_property
    def held(self) -> int:
        """Hidden states that a walk of `branches` in their order holds at once for those still to come."""
        *before, last = (branch.held for branch in self.branches) if self.branches else (0,)
        return max([last, *(1 + held for held in before)])

    @cached_property
    def cost(self) -> int:
        """Layer applications of the whole subtree, each distinct one once."""
        own = Plan.of(*self.units).cost if self.units else 0
        return own + sum(branch.cost for branch in self.branches)


def units(plan: Plan) -> Iterator[Node]:
    """The plan's steps in the order they run, repeats unrolled."""

    def unroll(node: Node) -> Iterator[Node]:
        match node:
            case Series(items):
                for item in items:
                    yield from unroll(item)
            case Repeat(body, times):
                for _ in range(times):
                    yield from unroll(body)
            case _:
                yield node

    return unroll(plan.root)


def prefix_tree(plans: Sequence[Plan]) -> Branch:
    """The tree of `plans`; its root has no units of its own unless all plans begin alike.

    Branches come in the order that holds the fewest hidden states: the one that itself holds most comes last, when
    nothing need be held for a next one (Sethi and Ullman's order for registers).
    """
    return _branch([(index, tuple(units(plan))) for index, plan in enumerate(plans)])


def _branch(members: list[tuple[int, tuple[Node, ...]]]) -> Branch:
    """The subtree of plans of which `members` are what remains to run."""
    first = members[0][1]
    shared = min(len(rest) for _, rest in members)
    while any(rest[:shared] != first[:shared] for _, rest in members):
        shared -= 1
    groups: dict[Node, list[tuple[int, tuple[Node, ...]]]] = {}
    for index, rest in members:
        if len(rest) > shared:
            groups.setdefault(rest[shared], []).append((index, rest[shared:]))
    return Branch(
        first[:shared],
        tuple(index for index, rest in members if len(rest) == shared),
        tuple(sorted(map(_branch, groups.values()), key=lambda branch: branch.held)),
    )

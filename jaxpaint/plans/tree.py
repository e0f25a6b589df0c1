"""Plans that begin alike, as a prefix tree: what they share is computed once.

A plan is cut into units, the steps of its series with repeats unrolled: a layer, or a whole parallel group. Two
plans have the same hidden states until their units part, so a walk of the tree runs each distinct prefix once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from jaxpaint.plans import nodes
from jaxpaint.plans.plan import Node, Plan, PlanError

State = TypeVar("State")
MAX_PARTINGS = 200


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
        """Layer applications of the whole subtree, each distinct one once; a sublayer's count as well."""
        return _cost(self.units) + sum(branch.cost for branch in self.branches)


def units(plan: Plan) -> tuple[Node, ...]:
    """The plan's steps in the order they run, repeats unrolled."""
    return nodes.units(plan.root)


def prefix_tree(plans: Sequence[Plan]) -> Branch:
    """The tree of `plans`; its root has no units of its own unless all plans begin alike.

    Branches come in the order that holds the fewest hidden states: the one that itself holds most comes last, when
    nothing need be held for a next one (Sethi and Ullman's order for registers).

    Raises:
        PlanError: more than `MAX_PARTINGS` plans of which each parts from, or goes on after, the one before.
    """
    return _branch([(index, units(plan)) for index, plan in enumerate(plans)], 0)


def _branch(members: list[tuple[int, tuple[Node, ...]]], level: int) -> Branch:
    """The subtree of plans of which `members` are what remains to run; `level` counts the branches above it."""
    if level > MAX_PARTINGS:  # here and in `walk` Python could not follow
        raise PlanError(
            f"more than {MAX_PARTINGS} plans go on one from the other, such as loops 1-{MAX_PARTINGS + 1} of one "
            "strategy; give fewer of them, or make several studies"
        )
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
        tuple(sorted((_branch(group, level + 1) for group in groups.values()), key=lambda branch: branch.held)),
    )


def walk(
    tree: Branch, start: State, advance: Callable[[State, Plan, int], State], held_states: int
) -> Iterator[tuple[Branch, State, int]]:
    """Yields each branch, the state after its units, and the layer applications run for it, depth first.

    `advance(state, part, before)` is the state after `part`, that part of the plans which follows their first `before`
    attentions. At most `held_states` states are held at branch points; beyond them the way from the last one
    held is run again. Let go of a state before asking for the next one.
    """

    def run(state: State, before: int, way: tuple[Node, ...]) -> State:
        return advance(state, Plan.of(*way), before) if way else state

    return _visit(run, held_states, tree, start, start, 0, (), 0)


# Not within `walk`: a function that names itself is garbage that Python finds late, with all the states that it holds.
def _visit(
    run: Callable[[State, int, tuple[Node, ...]], State],
    held_states: int,
    branch: Branch,
    state: State | None,
    anchor: State | None,
    anchored: int,
    pending: tuple[Node, ...],
    held: int,
) -> Iterator[tuple[Branch, State, int]]:
    """The branch from `state`, its own first; where that is None, by way of `pending` from the held `anchor`.

    `anchored` counts the attentions before `anchor`. A state is dropped (set to None) as soon as no one needs
    it: frames of the walk outlive it.
    """
    x: State | None
    way = (*pending, *branch.units)
    if state is None:
        x, cost = run(anchor, anchored, way), _cost(way)  # type: ignore[arg-type]
    else:
        x, cost = run(state, anchored + _attentions(pending), branch.units), _cost(branch.units)
    state, pending = None, way
    yield branch, x, cost
    if held < held_states or len(branch.branches) == 1:
        anchor, anchored, pending = x, anchored + _attentions(pending), ()
    hold = anchor is x
    for number, child in enumerate(branch.branches):
        last = number == len(branch.branches) - 1
        others = held + 1 if hold and not last else held
        rest = _visit(run, held_states, child, x, anchor, anchored, pending, others)
        if last:
            x = anchor = None
        elif not hold:
            x = None
        yield from rest


def _cost(way: tuple[Node, ...]) -> int:
    return sum(map(nodes.applications, way))


def _attentions(way: tuple[Node, ...]) -> int:
    return sum(map(nodes.attentions, way))

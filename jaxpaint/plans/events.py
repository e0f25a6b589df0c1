"""A plan written out as it runs: its steps, and each application of a layer, with its place and its weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from jaxpaint.base.part import Part
from jaxpaint.plans.nodes import Layer, Node, Parallel, Repeat, Series, Unit, Weighted
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True, slots=True)
class Event:
    """One application of a layer. A layer that runs three times is three events.

    Attributes:
        number: its place among the plan's events, from 0, in the order that they run in.
        layer: which layer it is.
        part: what of the layer runs.
        step: the plan's step that it belongs to, from 1: after that step comes the state of this number.
        depth: how many events precede it on its own chain, from 0. Branches of a group count side by side, and what
            follows the group goes on from its longest branch.
        weight: how much of its update reaches the state after the step: 1, or the product of the weights around it and,
            over averaged groups around it, of one over the number of their branches.
    """

    number: int
    layer: int
    step: int
    depth: int
    weight: float
    part: Part = "whole"


@dataclass(frozen=True)
class Step:
    """A layer or a whole parallel group of the plan's series, as often as repeats run it.

    `iterations` tell, from the outermost repeat around it inwards, which turn it is (from 1) and of how many.
    """

    number: int
    plan: Plan
    iterations: tuple[tuple[int, int], ...]
    events: tuple[Event, ...]

    @property
    def label(self) -> str:
        """Such as `7`, or `{9-22} 2/3` for the second turn of three."""
        return " ".join([str(self.plan), *(f"{turn}/{turns}" for turn, turns in self.iterations)])


def steps(plan: Plan) -> tuple[Step, ...]:
    """The plan's steps in the order they run, as many as `jaxpaint.plans.tree.units`."""
    found: list[Step] = []
    numbers, depth = count(), 0
    for number, (unit, iterations) in enumerate(_turns(plan.root, ()), 1):
        own: list[Event] = []
        depth = _run(unit, number, depth, 1.0, numbers, own)
        found.append(Step(number, Plan.of(unit), iterations, tuple(own)))
    return tuple(found)


def events(plan: Plan) -> tuple[Event, ...]:
    """The plan's events in the order they run: `plan.applications` of them."""
    return tuple(event for step in steps(plan) for event in step.events)


@dataclass(frozen=True)
class Branch:
    """A branch of a step that is a parallel group, and which of the plan's events are its: `first` up to `stop`."""

    step: int
    """As `Event.step`: the part of the plan's series that the group is, from 1."""
    number: int
    plan: Plan
    first: int
    stop: int

    @property
    def label(self) -> str:
        """Such as `10-12 of part 5`."""
        return f"{self.plan} of part {self.step}"


def branches(plan: Plan) -> tuple[Branch, ...]:
    """Those of the plan's outermost groups, each turn of a repeat anew."""
    found: list[Branch] = []
    for step in steps(plan):
        for unit in step.plan.root.items:
            if isinstance(unit, Parallel):
                first = step.events[0].number
                for number, node in enumerate(unit.branches):
                    own = Plan.of(node)
                    found.append(Branch(step.number, number, own, first, first + own.applications))
                    first += own.applications
    return tuple(found)


def _turns(node: Node, iterations: tuple[tuple[int, int], ...]) -> Iterator[tuple[Unit, tuple[tuple[int, int], ...]]]:
    match node:
        case Series(items):
            for item in items:
                yield from _turns(item, iterations)
        case Repeat(body, times):
            for turn in range(1, times + 1):
                yield from _turns(body, (*iterations, (turn, times)))
        case Layer() | Parallel() | Weighted():
            yield node, iterations


def _run(node: Node, step: int, depth: int, weight: float, numbers: Iterator[int], found: list[Event]) -> int:
    """Adds the node's events, and returns the depth after it."""
    match node:
        case Layer(index, part):
            found.append(Event(next(numbers), index, step, depth, weight, part))
            return depth + 1
        case Series(items):
            for item in items:
                depth = _run(item, step, depth, weight, numbers, found)
            return depth
        case Repeat(body, times):
            for _ in range(times):
                depth = _run(body, step, depth, weight, numbers, found)
            return depth
        case Parallel(branches, combine):
            own = weight / len(branches) if combine == "mean" else weight
            return max(_run(branch, step, depth, own, numbers, found) for branch in branches)
        case Weighted(body, own):
            return _run(body, step, depth, weight * own, numbers, found)

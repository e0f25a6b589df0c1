"""A plan as a graph of states: what each event reads, and where the branches of groups meet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from jaxpaint.plans.nodes import Combine, Layer, Node, Parallel, Repeat, Series, Weighted
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True, slots=True)
class Input:
    """The state that the plan begins with."""


@dataclass(frozen=True, slots=True)
class After:
    """The state after an event (`jaxpaint.plans.events.Event`), by its number, which read the stage `reads`."""

    event: int
    reads: int


@dataclass(frozen=True, slots=True)
class Join:
    """The state in which the branches of a group meet, each of which began at the stage `reads`.

    `number` counts the plan's joins from 0 in the order that they run in, each turn of a repeat anew; `branches` are
    the stages that the group's branches end at. What is weighted is a sum of one branch, whose update has the `weight`.
    """

    number: int
    combine: Combine
    reads: int
    branches: tuple[int, ...]
    weight: float = 1.0


Stage: TypeAlias = Input | After | Join


def stages(plan: Plan) -> tuple[Stage, ...]:
    """The plan's states in the order that they come about: the input, one for each event, group's end and weight.

    Stages are named by their places here; each reads earlier ones, and the last is the plan's result.
    """
    found: list[Stage] = [Input()]
    events, joins = count(), count()

    def run(node: Node, stage: int) -> int:
        match node:
            case Layer():
                found.append(After(next(events), stage))
            case Series(items):
                for item in items:
                    stage = run(item, stage)
                return stage
            case Repeat(body, times):
                for _ in range(times):
                    stage = run(body, stage)
                return stage
            case Parallel(branches, combine):
                ends = tuple(run(branch, stage) for branch in branches)
                found.append(Join(next(joins), combine, stage, ends))
            case Weighted(body, weight):
                end = run(body, stage)
                found.append(Join(next(joins), "sum", stage, (end,), weight))
        return len(found) - 1

    run(plan.root, 0)
    return tuple(found)

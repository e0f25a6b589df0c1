"""Changes of a plan that make another plan of the same model: what an evolution's children differ by.

They work on the steps of the plan's series, of which the first `kept` stay as they are, fewer than there are; groups
and loops are steps, and `unroll` opens them. A change that a plan does not admit leaves it as it is. All draws are from
the `random.Random` that is given, so equal ones make equal plans.
"""

from __future__ import annotations

from random import Random

from jaxpaint.base.part import Part
from jaxpaint.plans.nodes import Layer, Node, Parallel, PlanError, Repeat, Series, layer, written_layers
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import units
from jaxpaint.search.budget import Limit

LONGEST = 4  # steps in one change, but for blocks that are repeated
MOST_NESTING = 2  # groups within groups; nothing is gained by more, and they are slow to read


def leave_out(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """A few neighbours away."""
    first, last = _span(steps, random, kept)
    return steps[:first] + steps[last:]


def repeat(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """A block once more after itself."""
    first, last = _span(steps, random, kept, len(steps))
    return steps[:last] + steps[first:]


def swap(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """Two steps in each other's place, mostly neighbours."""
    if len(steps) < kept + 2:
        return steps
    one = random.randrange(kept, len(steps) - 1)
    other = one + 1 if random.random() < 0.7 else random.randrange(kept, len(steps))
    steps = list(steps)
    steps[one], steps[other] = steps[other], steps[one]
    return steps


def side_by_side(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """Neighbours on one input, averaged or with their updates summed."""
    if len(steps) < kept + 2:
        return steps
    first = random.randrange(kept, len(steps) - 1)
    last = min(len(steps), first + random.randint(2, LONGEST))
    group = Parallel(tuple(steps[first:last]), random.choice(("mean", "sum")))
    return [*steps[:first], group, *steps[last:]]


def loop(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """A few neighbours two or three times."""
    first, last = _span(steps, random, kept)
    body = Repeat(Series(tuple(steps[first:last])), random.choice((2, 2, 3)))
    return [*steps[:first], body, *steps[last:]]


def unroll(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """A group, loop or whatever holds layers, opened: these one after the other, once each."""
    places = [place for place, step in enumerate(steps) if place >= kept and not isinstance(step, Layer)]
    if not places:
        return steps
    place = random.choice(places)
    return [*steps[:place], *map(layer, written_layers(steps[place])), *steps[place + 1 :]]


def halve(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """Of a whole layer its attention or its feed-forward alone."""
    places = [place for place, step in enumerate(steps) if place >= kept and _is_whole(step)]
    if not places:
        return steps
    place = random.choice(places)
    return [*steps[:place], *half_of(steps[place], random.choice(("attention", "mlp"))), *steps[place + 1 :]]


def half_of(step: Node, part: Part) -> tuple[Node, ...]:
    """What is left of a layer of which only this part is kept: nothing, of the other part alone."""
    assert isinstance(step, Layer)
    return (layer(step.index, part),) if step.part in ("whole", part) else ()


def _is_whole(step: Node) -> bool:
    return isinstance(step, Layer) and step.part == "whole"


def put_back(steps: list[Node], random: Random, num_layers: int, kept: int = 0) -> list[Node]:
    """A layer that is nowhere, before the first step of a later one."""
    absent = sorted({*range(num_layers)} - {*written_layers(Series(tuple(steps)))})
    if not absent:
        return steps
    chosen = random.choice(absent)
    later = (place for place, step in enumerate(steps) if max(written_layers(step)) > chosen)
    place = max(kept, next(later, len(steps)))
    return [*steps[:place], layer(chosen), *steps[place:]]


MUTATIONS = (leave_out, repeat, swap, side_by_side, loop, unroll, halve, put_back)


def mutated(plan: Plan, random: Random, num_layers: int, limit: Limit, beginning: float = 0.0) -> Plan:
    """The plan after one change or more, and within the limit. A share of its steps, the first ones, stays."""
    kept = int(beginning * len(plan.root.items))
    while True:
        change = random.choice(MUTATIONS)
        steps = list(plan.root.items)
        plan = fitted(_plan(change(steps, random, num_layers, kept), plan), random, limit, kept)
        if random.random() < 0.6 or len(plan.root.items) <= kept:
            return plan


def crossed(one: Plan, other: Plan, random: Random, limit: Limit, beginning: float = 0.0) -> Plan:
    """The beginning of one plan, then what the other has after the layers that have run; within the limit.

    It is at least a share of the one's steps.
    """
    mine, theirs = list(one.root.items), list(other.root.items)
    kept = int(beginning * len(mine))
    cut = random.randrange(kept, len(mine)) + 1
    reached = max(written_layers(Series(tuple(mine[:cut]))))
    place = next((at for at, step in enumerate(theirs) if max(written_layers(step)) > reached), len(theirs))
    return fitted(_plan(mine[:cut] + theirs[place:], one), random, limit, kept)


def fitted(plan: Plan, random: Random, limit: Limit, kept: int = 0) -> Plan:
    """The plan itself, or with steps left out, or put side by side where depth counts, until it is within the limit.

    Not the first `kept` of them, while there are others.
    """
    while not limit.fits(plan):
        steps = list(plan.root.items)
        if len(steps) == 1:
            inner = list(map(layer, written_layers(steps[0])))
            plan = Plan.of(*inner[: limit.layers])
            continue
        kept = min(kept, len(steps) - 1)
        if limit.gains_by_groups and random.random() < 0.5:
            place = random.randrange(min(kept, len(steps) - 2), len(steps) - 1)
            pair = Parallel((steps[place], steps[place + 1]))
            plan = _plan([*steps[:place], pair, *steps[place + 2 :]], plan)
            continue
        place = random.randrange(kept, len(steps))
        plan = Plan.of(*steps[:place], *steps[place + 1 :])
    return plan


def without_random_layers(random: Random, num_layers: int, limit: Limit) -> Plan:
    """The model without layers drawn at random, as few as the limit allows; or with a block repeated at random."""
    if limit.layers >= num_layers:
        return fitted(Plan.of(*repeat(list(map(layer, range(num_layers))), random, num_layers)), random, limit)
    kept = sorted(random.sample(range(num_layers), limit.layers))
    return Plan.of(*kept)


def alike(plan: Plan) -> str:
    """Equal for plans that compute the same, however they are written: loops unrolled, branches in one order."""
    return str(Plan.of(*map(_ordered, units(plan))))


def _ordered(step: Node) -> Node:
    if isinstance(step, Parallel):
        return Parallel(tuple(sorted(step.branches, key=lambda branch: str(Plan.of(branch)))), step.combine)
    return step


def _span(steps: list[Node], random: Random, kept: int, longest: int = LONGEST) -> tuple[int, int]:
    first = random.randrange(kept, len(steps))
    return first, min(len(steps), first + random.randint(1, longest))


def _plan(steps: list[Node], otherwise: Plan) -> Plan:
    """Of the steps; `otherwise` where there are none, or they nest too deep."""
    if not steps:
        return otherwise
    try:
        plan = Plan.of(*steps)
    except PlanError:
        return otherwise
    return plan if plan.nesting <= MOST_NESTING else otherwise

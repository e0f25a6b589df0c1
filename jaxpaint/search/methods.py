"""How plans are searched for: generators that ask for the scores of a generation of plans, and are sent them.

Each is a pure function of a `Space` and of the scores that it is sent, so that a search that begins again, with the
scores of before in its store, asks for the same plans again. A score is of the plan less that of the full model on the
same documents; higher is better, and -inf says that a logit was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from jaxpaint.plans.nodes import Parallel
from jaxpaint.plans.plan import Plan
from jaxpaint.search.budget import Limit
from jaxpaint.search.mutations import alike, crossed, half_of, mutated, without_random_layers

CHILDREN = 32  # of a generation of the evolution
PARENTS = 4
RUNGS = (1 / 9, 1 / 3, 1.0)  # shares of the search's documents in successive halving
TRIES = 50  # at a plan that was not looked at before


class Generation(NamedTuple):
    """Plans whose scores are wanted on the first documents, `share` of all that the search may see."""

    plans: tuple[Plan, ...]
    share: float = 1.0


Method: TypeAlias = Generator[Generation, Sequence[float], None]


@dataclass(frozen=True)
class Space:
    """What is searched: plans of a model within a limit.

    `starts` are plans within it to begin with; `plans` is how many evolution, halving, random and blocks look at,
    about; `width` how many the beam keeps.
    """

    num_layers: int
    limit: Limit
    starts: tuple[Plan, ...] = ()
    seed: int = 0
    plans: int = 200
    width: int = 4

    @property
    def full(self) -> Plan:
        return Plan.of(range(self.num_layers))

    @property
    def grows(self) -> bool:
        """Whether the full model is within the limit, so that layers are added, not left out."""
        return self.limit.fits(self.full)


def greedy(space: Space) -> Method:
    """One change after the other, each time the best: `beam` of width 1.

    Of layers left out it is SLEB's (Song et al., arXiv 2402.09025), by the score of the answers.
    """
    yield from _beam(space, 1)


def sublayers(space: Space) -> Method:
    """One attention or feed-forward left out after the other, each time the best to lose; for budgets below the model.

    As BlockPruner does (Zhong et al., arXiv 2406.10594), which goes by perplexity.
    """
    if not space.grows:
        yield from _beam(space, 1, _without_a_sublayer)


def beam(space: Space) -> Method:
    """As `greedy`, with the `width` best plans kept at each step."""
    yield from _beam(space, space.width)


def random_plans(space: Space) -> Method:
    """Layers left out, or blocks repeated, at random; all on all documents. What a search has to beat."""
    random = Random(f"random {space.seed}")
    drawn = (without_random_layers(random, space.num_layers, space.limit) for _ in range(TRIES * space.plans))
    yield Generation(tuple(first(_distinct(drawn), space.plans)))


def halving(space: Space) -> Method:
    """Many plans on few documents, a third of them on three times as many, and so on.

    Successive halving (Jamieson and Talwalkar, arXiv 1502.07943), in thirds.
    """
    random = Random(f"halving {space.seed}")
    plans = tuple(first(_distinct([*space.starts, *_drawn(space, random)]), space.plans))
    for share in RUNGS:
        scores = yield Generation(plans, share)
        plans = best(plans, scores, max(1, len(plans) // 3))


def evolution(space: Space) -> Method:
    """Children of the best plans so far, by changes of the plan's tree and by crossing; the best stay parents.

    A generation's children keep a share of their parents' first steps, drawn anew for each, which is computed once.
    """
    random = Random(f"evolution {space.seed}")
    wanted = first(_distinct([*space.starts, *_drawn(space, random)]), CHILDREN)
    known: dict[Plan, float] = {}
    seen: set[str] = set()
    generation = tuple(wanted)
    while generation:
        scores = yield Generation(generation)
        known |= dict(zip(generation, scores, strict=True))
        seen |= set(map(alike, generation))
        if len(known) >= space.plans:
            return
        parents = best(tuple(known), list(known.values()), PARENTS)
        beginning = max(random.random(), random.random())  # the longer of two: more is computed once
        # Where nothing new keeps so much, less is kept.
        shares = [beginning * (1 - number / (TRIES * CHILDREN)) for number in range(TRIES * CHILDREN)]
        children = (_child(parents, space, random, share) for share in shares)
        generation = tuple(first(_distinct(children, seen), min(CHILDREN, space.plans - len(known))))


def best(plans: Sequence[Plan], scores: Sequence[float], number: int) -> tuple[Plan, ...]:
    """Those with the highest scores; of equal ones the cheaper, then by their texts: nothing is left to chance."""
    order = sorted(zip(plans, scores, strict=True), key=lambda pair: (-pair[1], pair[0].cost, str(pair[0])))
    return tuple(plan for plan, _ in order[:number])


def first(plans: Iterable[Plan], number: int) -> list[Plan]:
    return [plan for plan, _ in zip(plans, range(number), strict=False)]


def _beam(space: Space, width: int, steps: Callable[[Plan, Space], Iterator[Plan]] | None = None) -> Method:
    kept: tuple[Plan, ...] = (space.full,)
    reached = -math.inf
    while True:
        wanted = tuple(_distinct(step for plan in kept for step in (steps or _steps)(plan, space)))
        if not wanted:
            return
        scores = yield Generation(wanted)
        if space.grows and max(scores) <= reached:
            return
        kept, reached = best(wanted, scores, width), max(scores)


def _steps(plan: Plan, space: Space) -> Iterator[Plan]:
    """The plans that one change away are nearer to the limit, or, where it leaves room, have a block once more."""
    steps = plan.root.items
    if space.grows:
        blocks = combinations(range(len(steps) + 1), 2)
        longer = (Plan.of(*steps[:last], *steps[start:]) for start, last in blocks)
        yield from (each for each in longer if space.limit.fits(each))
    elif not space.limit.fits(plan) and len(steps) > 1:
        for place in range(len(steps)):
            yield Plan.of(*steps[:place], *steps[place + 1 :])
        if space.limit.gains_by_groups:
            for place in range(len(steps) - 1):
                pair = Parallel((steps[place], steps[place + 1]))
                yield Plan.of(*steps[:place], pair, *steps[place + 2 :])


def _without_a_sublayer(plan: Plan, space: Space) -> Iterator[Plan]:
    """The plans without one of its sublayers, while it is beyond the limit."""
    steps = plan.root.items
    if space.limit.fits(plan):
        return
    for place, step in enumerate(steps):
        for part in ("attention", "mlp"):
            rest = (*steps[:place], *half_of(step, part), *steps[place + 1 :])
            if rest and rest != steps:
                yield Plan.of(*rest)


def _drawn(space: Space, random: Random) -> Iterator[Plan]:
    """Plans at random: layers left out, and changes of the plans to begin with."""
    for number in range(TRIES * space.plans):
        if number % 2 or not space.starts:
            yield without_random_layers(random, space.num_layers, space.limit)
        else:
            yield mutated(random.choice(space.starts), random, space.num_layers, space.limit)


def _child(parents: Sequence[Plan], space: Space, random: Random, beginning: float) -> Plan:
    one = parents[min(random.randrange(len(parents)), random.randrange(len(parents)))]  # the better, the likelier
    if random.random() < 0.3:
        crossing = crossed(one, random.choice(parents), random, space.limit, beginning)
        if alike(crossing) != alike(one):
            return crossing
    return mutated(one, random, space.num_layers, space.limit, beginning)


def _distinct(plans: Iterable[Plan], seen: Iterable[str] = ()) -> Iterator[Plan]:
    """Each once, and none that computes what one of `seen` does."""
    known = set(seen)
    for plan in plans:
        if (key := alike(plan)) not in known:
            known.add(key)
            yield plan


def without_middle(num_layers: int, count: int) -> Plan:
    """The model without `count` layers in its middle."""
    start = (num_layers - count + 1) // 2
    return Plan.of(range(start), range(start + count, num_layers))


def _blocks(space: Space) -> Method:
    from jaxpaint.search.surrogate import blocks

    return blocks(space)


METHODS: Mapping[str, Callable[[Space], Method]] = MappingProxyType(
    {
        "greedy": greedy,
        "beam": beam,
        "sublayers": sublayers,
        "blocks": _blocks,
        "evolution": evolution,
        "halving": halving,
        "random": random_plans,
    }
)
"""By the names that the command line uses."""

"""Blocks of layers left out or repeated: every one is measured, a regression learns from them, and proposes several.

After RYS (dnhkng.github.io), which measures every block repeated once, fits gradient-boosted trees, ranks combinations
and measures the best. Here the trees are scikit-learn's, which is installed already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, pairwise
from random import Random

import numpy as np

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import repeat_block
from jaxpaint.plans.tree import units
from jaxpaint.search.methods import TRIES, Generation, Method, Space, best, first
from jaxpaint.search.mutations import alike

FIRST_SHARE = 1 / 3  # of the documents, for every single block: they are many, and only teach
ROUNDS = 3
POOL = 2000  # combinations that are ranked for those that are measured


def blocks(space: Space) -> Method:
    """Every block (i, j), or a sample of half of `space.plans`; then the most promising combinations.

    Where the full model is beyond the limit, blocks are left out, several of them until what is left is within it;
    else they are repeated.
    """
    random = Random(f"blocks {space.seed}")
    single = list(_single(space))
    half = max(1, space.plans // 2)
    if len(single) > half:
        single = [single[place] for place in sorted(random.sample(range(len(single)), half))]
    scores = yield Generation(tuple(single), FIRST_SHARE)
    known = dict(zip(single, scores, strict=True))
    measured: dict[Plan, float] = {}
    for _ in range(ROUNDS):
        seen = set(map(alike, measured))
        pool = [plan for plan in first(_combined(space, random), POOL) if alike(plan) not in seen]
        if not measured:
            pool = [*space.starts, *pool]
        pool = list({alike(plan): plan for plan in pool}.values())
        if not pool:
            return
        guessed = _predicted(space, known | measured, pool)
        chosen = best(pool, guessed.tolist(), max(1, (space.plans - len(single)) // ROUNDS))
        scores = yield Generation(chosen)
        measured |= dict(zip(chosen, scores, strict=True))


def _single(space: Space) -> Iterator[Plan]:
    """Of every block (i, j) the plan that leaves it out, or repeats it within the limit."""
    for start, last in combinations_with_replacement(range(space.num_layers), 2):
        if not space.grows and last - start + 1 < space.num_layers:
            yield Plan.of(range(start), range(last + 1, space.num_layers))
        elif space.grows and space.limit.fits(plan := repeat_block(space.num_layers, start, last)):
            yield plan


def _combined(space: Space, random: Random) -> Iterator[Plan]:
    """Several blocks left out until what is left is just within the limit, or up to three repeated."""
    for _ in range(TRIES * POOL):
        if space.grows:
            plan = Plan.of(*_repeats(space, random))
            if space.limit.fits(plan):
                yield plan
            continue
        kept = set(range(space.num_layers))
        while (over := len(kept) - space.limit.layers) > 0:
            start = random.randrange(space.num_layers)
            kept -= set(sorted(layer for layer in kept if layer >= start)[: random.randint(1, over)])
        yield Plan.of(*sorted(kept))


def _repeats(space: Space, random: Random) -> list[int]:
    layers = list(range(space.num_layers))
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(layers))
        last = min(len(layers), start + random.randint(1, max(1, space.num_layers // 3)))
        layers = layers[:last] + layers[start:]
    return layers


def _predicted(space: Space, known: dict[Plan, float], plans: Sequence[Plan]) -> np.ndarray:
    """The scores that trees on the known plans' features expect."""
    from sklearn.ensemble import ExtraTreesRegressor

    finite = {plan: score for plan, score in known.items() if np.isfinite(score)}
    if not finite:
        return np.zeros(len(plans))
    trees = ExtraTreesRegressor(n_estimators=200, min_samples_leaf=2, random_state=space.seed)
    trees.fit(_features(space, list(finite)), np.array(list(finite.values())))
    return trees.predict(_features(space, plans))


def _features(space: Space, plans: Sequence[Plan]) -> np.ndarray:
    """How often each layer runs, whether the next one follows it, and how many run in all: [plans, 2 T + 1]."""
    found = np.zeros((len(plans), 2 * space.num_layers + 1))
    for row, plan in zip(found, plans, strict=True):
        order = [str(Plan.of(step)) for step in units(plan)]
        for index in plan.layers:
            row[index] = order.count(str(index))
        for one, other in pairwise(order):
            if one.isdigit() and other == str(int(one) + 1):
                row[space.num_layers + int(one)] = 1
        row[-1] = plan.cost
    return found

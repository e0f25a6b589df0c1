"""A study's plans in parts of nearly equal work, for the jobs of a scheduler's array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import Branch, prefix_tree


@dataclass(frozen=True)
class _Ending:
    """Plans (by index) that end at one place of the prefix tree; what they cost alone, and after the ending before."""

    plans: tuple[int, ...]
    cost: int
    added: int


def shard_of(plans: Sequence[Plan], count: int) -> tuple[int, ...]:
    """The shard, from 1 to `count`, of every plan.

    The shards are neighbouring subtrees of the plans' prefix tree, cut so that the costliest shard costs least;
    what a shard shares with the one before is computed again, at most one path for each cut. Plans that run alike
    lie in one shard. The same plans give the same shards on every machine; with fewer plans than shards some
    shards are empty.
    """
    if not plans:
        return ()
    endings = _endings(prefix_tree(plans))
    low, high = max(ending.cost for ending in endings), sum(ending.added for ending in endings)
    while low < high:
        middle = (low + high) // 2
        if _cut(endings, middle)[-1] <= count:
            high = middle
        else:
            low = middle + 1
    shards = [0] * len(plans)
    for ending, shard in zip(endings, _cut(endings, low), strict=True):
        for plan in ending.plans:
            shards[plan] = shard
    return tuple(shards)


def _endings(tree: Branch) -> list[_Ending]:
    """Where plans end, in the tree's order, depth first."""
    found: list[_Ending] = []

    def visit(branch: Branch, before: int, added: int) -> int:
        own = branch.cost - sum(child.cost for child in branch.branches)
        before, added = before + own, added + own
        if branch.ends:
            found.append(_Ending(branch.ends, before, added))
            added = 0
        for child in branch.branches:
            added = visit(child, before, added)
        return added

    visit(tree, 0, 0)
    return found


def _cut(endings: Sequence[_Ending], most: int) -> list[int]:
    """Shards from 1 on, each filled in turn while it costs `most` or less: the fewest that do."""
    shards: list[int] = []
    shard, spent = 1, 0
    for ending in endings:
        spent += ending.added
        if spent > most:
            shard, spent = shard + 1, ending.cost
        shards.append(shard)
    return shards

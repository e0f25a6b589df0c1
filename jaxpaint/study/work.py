"""How much there is to compute in a study, and what it needs of memory and time: counting, nothing run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jaxpaint.engine.packing import Batch, Request
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.shards import shard_of
from jaxpaint.plans.tree import Branch, prefix_tree


@dataclass(frozen=True)
class PlanWork:
    """Of distinct plans, in layer applications per token: `distinct` with every shared prefix once, `separate` plan
    by plan. `ends` are the places where the tree's plans end, each of which runs the head; `held` the hidden states
    held at once while it is walked.
    """

    plans: int
    distinct: int
    separate: int
    ends: int
    held: int


@dataclass(frozen=True)
class TokenWork:
    """Of requests, in tokens: `separate` each request alone, `distinct` shared prefixes once, `computed`
    with padding; `scored` are the positions that the head runs on.
    """

    requests: int
    separate: int
    distinct: int
    computed: int
    scored: int


@dataclass(frozen=True)
class Rates:
    """Seconds for one layer on one position, and for the head on one scored position."""

    layer: float
    head: float


@dataclass(frozen=True)
class MemoryUse:
    """Bytes at the peak, each its own: what the compiler needs within a layer comes on top."""

    parameters: int
    held_states: int
    logits: int

    @property
    def total(self) -> int:
        return self.parameters + self.held_states + self.logits


def plan_work(plans: Collection[Plan]) -> PlanWork:
    """Counts the distinct ones of `plans`."""
    different = list(dict.fromkeys(plans))
    if not different:
        return PlanWork(0, 0, 0, 0, 0)
    tree = prefix_tree(different)
    return PlanWork(len(different), tree.cost, sum(plan.cost for plan in different), _ends(tree), tree.held)


def shard_work(plans: Collection[Plan], count: int) -> list[PlanWork]:
    """The work of each of `count` shards, in their order."""
    different = list(dict.fromkeys(plans))
    shards = shard_of(different, count)
    return [
        plan_work([plan for plan, shard in zip(different, shards, strict=True) if shard == number])
        for number in range(1, count + 1)
    ]


def token_work(requests: Sequence[Request], batches: Sequence[Batch]) -> TokenWork:
    """Counts `requests` and the batches they were packed into (`jaxpaint.engine.packing.pack`)."""
    return TokenWork(
        len(requests),
        sum(len(request.tokens) for request in requests),
        sum(batch.real_tokens for batch in batches),
        sum(batch.tokens.size for batch in batches),
        sum(batch.count for batch in batches),
    )


def seconds_needed(plans: PlanWork, tokens: TokenWork, rates: Rates) -> float:
    """Seconds for all plans on all tokens, recomputation and compilation left out."""
    return plans.distinct * tokens.computed * rates.layer + plans.ends * tokens.scored * rates.head


def memory_needed(
    plans: PlanWork, *, parameter_bytes: int, state_bytes: int, held_bytes: int, logits_bytes: int
) -> MemoryUse:
    """`state_bytes` is one batch's hidden states, `held_bytes` the bound on those held where plans part.

    Three more states are alive: the one that is computed, what it is computed from, and a head's input.
    """
    return MemoryUse(parameter_bytes, min(plans.held * state_bytes, held_bytes) + 3 * state_bytes, logits_bytes)


def _ends(branch: Branch) -> int:
    return bool(branch.ends) + sum(map(_ends, branch.branches))

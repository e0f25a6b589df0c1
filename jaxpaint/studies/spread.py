"""What a study misses, spread over a pool's workers: batches, each under subtrees of the plans' tree."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.shards import shard_of
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import Study
from jaxpaint.studies.loop import Found, Portion, Work
from jaxpaint.studies.pools import Job, OutOfMemory, Pool

PARTS_A_WORKER = 4  # at least, so that all end at about the same time, and a lost one loses little
PLANS_A_PART = 32  # at most; each cut runs one path of the tree again


class Elsewhere(Work, Protocol):
    """Work whose portions can be computed by another process."""

    def with_plans(self, portion: Portion, plans: Int[np.ndarray, " P"]) -> Portion:
        """The same requests under some of its plans."""

    def job(self, portion: Portion) -> Job:
        """What a worker does for it."""

    def taken(self, portion: Portion, result: Any) -> Iterator[Found]:
        """What the job's result says."""


@dataclass(frozen=True, eq=False)
class Parts:
    """All that is missing, as one portion: of some of its `requests` under some of its `plans`."""

    parts: Sequence[Portion]
    requests: Int[np.ndarray, " R"]
    plans: Int[np.ndarray, " P"]


class Spread:
    """`work` on the workers of a pool, as `jaxpaint.studies.loop.Loop` runs it."""

    def __init__(self, work: Elsewhere, pool: Pool) -> None:
        self._work, self._pool = work, pool
        self._failed: Portion = None
        self.study: Study = work.study
        self.waiting = work.waiting

    def sizes(self) -> Int[np.ndarray, " requests"]:
        return self._work.sizes()

    def portions(self, missing: Bool[np.ndarray, "plans requests"]) -> list[Parts]:
        whole = self._work.portions(missing)
        if not whole:
            return []
        each = -(-PARTS_A_WORKER * max(self._pool.size, 1) // len(whole))
        parts = [part for portion in whole for part in self._cut(portion, each)]
        return [Parts(parts, np.flatnonzero(missing.any(axis=0)), np.flatnonzero(missing.any(axis=1)))]

    def _cut(self, portion: Portion, into: int) -> Iterator[Portion]:
        """By subtrees of the plans' tree, of about equal work."""
        plans: list[Plan] = [self.study.plans[plan] for plan in portion.plans]
        shards = np.array(shard_of(plans, max(into, -(-len(plans) // PLANS_A_PART))))
        for shard in np.unique(shards):
            yield self._work.with_plans(portion, portion.plans[shards == shard])

    def compute(self, portion: Parts) -> Generator[Found, None, None]:
        jobs = [self._work.job(part) for part in portion.parts]
        try:
            for number, result in self._pool.run(jobs):
                yield from self._work.taken(portion.parts[number], result)
        except OutOfMemory as error:
            self._failed = portion.parts[error.job]
            raise

    def smaller(self, failed: Parts, make: Callable[[], list[Parts]], tell: Callable[[str], None]) -> list[Parts]:
        latest: list[Parts] = []

        def remade() -> list[Portion]:
            latest[:] = make()
            return [part for each in latest for part in each.parts]

        self._work.smaller(self._failed, remade, tell)
        return latest

    def write(self, store: Store, rows: Iterator[tuple[Any, ...]], seconds: Mapping[int, float]) -> None:
        self._work.write(store, rows, seconds)

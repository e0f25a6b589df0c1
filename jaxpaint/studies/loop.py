"""How a process works on what a study misses, whatever that is: it looks, claims, computes, keeps, and waits.

Whatever ends the process, what is written stays, and what is not is computed by whoever comes next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.base.progress import Start, no_bar
from jaxpaint.results.store import Store, Worker
from jaxpaint.studies.cells import Finishing, Study

Portion: TypeAlias = Any  # of the work at hand
WRITE_SECONDS = 1.0  # of computing between transactions: so much may be lost
WAIT_SECONDS = 2.0  # between looks at what other processes compute


@dataclass(frozen=True, eq=False)
class Found:
    """What one plan gave for some of the study's requests: `values` are a row's, as the store takes them."""

    plan: int
    requests: Int[np.ndarray, " R"]
    values: list[tuple[Any, ...]]


class Work(Protocol):
    """What is computed of a study: log-likelihoods (`jaxpaint.studies.scoring`) or texts (`jaxpaint.studies.writing`).

    A portion is computed together: it has `requests` and `plans`, which miss all of these.
    """

    study: Study
    waiting: str

    def sizes(self) -> Int[np.ndarray, " requests"]:
        """Tokens of each request, for the progress and to share out the time."""

    def portions(self, missing: Bool[np.ndarray, "plans requests"]) -> list[Portion]:
        """All that is missing."""

    def compute(self, portion: Portion) -> Generator[Found, None, None]:
        """Runs a portion. Raises RuntimeError with RESOURCE_EXHAUSTED in its text where memory ends."""

    def smaller(self, failed: Portion, make: Callable[[], list[Portion]], tell: Callable[[str], None]) -> list[Portion]:
        """What `make` gives once less is computed at once than in `failed`. Raises UserError where that cannot be."""

    def write(self, store: Store, rows: Iterator[tuple[Any, ...]], seconds: Mapping[int, float]) -> None:
        """Keeps rows (cell, request's id, *values) and the seconds that cells took, in one transaction."""


class _OutOfMemory(Exception):
    """Of the portion that is its argument."""


class Loop:
    """One process at `work` on a study.

    `tell` gets a line that the user should read; `keep` is called after every portion.
    """

    def __init__(
        self,
        work: Work,
        store: Store,
        worker: Worker,
        *,
        tell: Callable[[str], None],
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._study, self._store, self._worker = work, work.study, store, worker
        self._finishing = Finishing(work.study, store)
        self._tell, self._keep = tell, keep
        self._missing = np.zeros((0, 0), bool)

    def run(self, progress: Start = no_bar) -> None:
        """Goes on until nothing is missing, waiting for what other processes compute.

        Raises UserError where the store cannot be written, a plan cannot be run so, or the device's memory does not
        hold a single request.
        """
        self._look()
        if not self._missing.any():
            return
        self._advance = progress(int(self._missing.sum(axis=0) @ self._sizes))
        self._all()
        self._look()
        if self._missing.any():
            self._tell(self._work.waiting)
        while self._missing.any():
            # All that is left, so what a process that died leaves behind is taken over.
            if not self._all():
                time.sleep(WAIT_SECONDS)
            self._look()

    @cached_property
    def _sizes(self) -> Int[np.ndarray, " requests"]:
        return self._work.sizes()

    @property
    def left(self) -> int:
        """Tokens under each plan that the store lacks, in all."""
        missing = self._study.all_missing(self._store)
        return int(missing.sum(axis=0) @ self._sizes) if missing.any() else 0

    def _look(self) -> None:
        self._missing = self._study.all_missing(self._store)
        self._finishing.of_all_but(self._missing)

    def _all(self) -> bool:
        """Runs what is missing, and says whether there was anything that others had not claimed."""

        def make() -> list[Portion]:
            return self._work.portions(self._missing)

        todo, any_done = deque(make()), False
        while todo:
            try:
                any_done |= self._portion(todo[0])
                todo.popleft()
            except _OutOfMemory as error:
                todo = deque(self._work.smaller(error.args[0], make, self._tell))
        return any_done

    def _portion(self, portion: Portion) -> bool:
        """Runs what no other process has claimed of it; False if there is none."""
        study, store = self._study, self._store
        tasks, ids = np.unique(study.task_of[portion.requests]), study.request_ids[portion.requests]
        cells = study.cells[np.ix_(tasks, portion.plans)].reshape(-1).tolist()
        claimed = store.claim(self._worker, cells, ids.tolist())
        if not claimed:
            return False
        try:
            owned = portion.requests[np.isin(ids, claimed)]
            still = study.missing(store, portion.plans, owned)
            if still.all() and len(owned) == len(portion.requests):
                self._compute(portion)
            else:
                missing = np.zeros_like(self._missing)
                missing[np.ix_(portion.plans, owned)] = still
                for part in self._work.portions(missing):
                    self._compute(part)
        finally:
            store.release(self._worker, claimed)
        self._finishing.of_all_but(self._missing)
        self._keep()
        return True

    def _compute(self, part: Portion) -> None:
        pending: list[Found] = []
        written = time.perf_counter()
        try:
            with closing(self._work.compute(part)) as results:
                for found in results:
                    pending.append(found)
                    if (seconds := time.perf_counter() - written) >= WRITE_SECONDS:
                        self._write(pending, seconds)
                        written += seconds
                    self._advance(int(self._sizes[found.requests].sum()), self._finishing.standing)
        except RuntimeError as error:  # jax.errors.JaxRuntimeError
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _OutOfMemory(part) from error
        finally:
            if pending:
                self._write(pending, time.perf_counter() - written)

    def _write(self, pending: list[Found], seconds: float) -> None:
        """One transaction; empties `pending`. Cells share the time by their plans' cost and what they ran on."""
        study = self._study
        rows: list[tuple[Any, ...]] = []
        costs: dict[int, float] = {}
        for found in pending:
            cells = study.cells[study.task_of[found.requests], found.plan].tolist()
            cost = study.plans[found.plan].cost
            for cell, size in zip(cells, self._sizes[found.requests].tolist(), strict=True):
                costs[cell] = costs.get(cell, 0.0) + cost * size
            ids = study.request_ids[found.requests].tolist()
            rows += [(cell, id, *value) for cell, id, value in zip(cells, ids, found.values, strict=True)]
        whole = sum(costs.values()) or 1.0
        self._work.write(self._store, iter(rows), {cell: seconds * cost / whole for cell, cost in costs.items()})
        for found in pending:
            self._missing[found.plan, found.requests] = False
        pending.clear()

"""Computes what a study misses: claims a batch's requests, sweeps the plans that miss them, keeps every score.

Whatever ends the process, what is written stays, and what is not is computed by whoever comes next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.engine import score as sweep
from jaxpaint.plans.tree import prefix_tree
from jaxpaint.results.store import Store, Worker
from jaxpaint.study.cells import Finishing, Study
from jaxpaint.study.portions import Portion, portions, regrouped

WRITE_SECONDS = 1.0  # of computing between transactions: so much may be lost
WAIT_SECONDS = 2.0  # between looks at what other processes compute
SMALLEST_BATCH_TOKENS = 64


@dataclass(frozen=True)
class Work:
    """What a process did: scores computed, layer applications times positions, and the seconds that it took.

    `executed` ran, padding and recomputation included; `distinct` is the least that any order of work could do,
    `separate` what every plan and every request run alone would have taken.
    """

    scores: int = 0
    executed: int = 0
    distinct: int = 0
    separate: int = 0
    seconds: float = 0.0


class _OutOfMemory(Exception):
    """The device's memory did not hold a batch of so many positions."""

    def __init__(self, positions: int) -> None:
        super().__init__(positions)
        self.positions = positions


class Run:
    """One process at work on a study. `work` is what it did so far.

    `progress` is told the number of tokens to score, counted under each plan, and gives what is told of those done,
    with a note; `tell` gets a line that the user should read; `keep` is called after every batch.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        worker: Worker,
        *,
        environment: Mapping[str, Any],
        batch_tokens: int,
        progress: Callable[[int], Callable[[int, str], None]],
        tell: Callable[[str], None],
        keep: Callable[[Work], None],
    ) -> None:
        self.work = Work()
        self._study, self._store, self._worker = study, store, worker
        self._finishing, self._batch_tokens = Finishing(study, store, environment), batch_tokens
        self._progress, self._tell, self._keep = progress, tell, keep
        self._missing = np.zeros((0, 0), bool)

    def run(self) -> None:
        """Goes on until nothing is missing, waiting for what other processes compute.

        Raises:
            UserError: the store cannot be written, or the device's memory does not hold the longest request.
        """
        self._look()
        if not self._missing.any():
            return
        study = self._study
        self._lengths = np.array([len(request.tokens) for request in study.requests])
        self._advance = self._progress(int(self._missing.sum(axis=0) @ self._lengths))
        self._without_targets()
        self._all(lambda: portions(study.model, study.requests, self._missing, self._batch_tokens))
        self._look()
        if self._missing.any():
            self._tell("waiting for what another process computes of this study")
        while self._missing.any():
            # All that is left, so what a process that died leaves behind is taken over.
            if not self._all(self._everything_left):
                time.sleep(WAIT_SECONDS)
            self._look()

    def _look(self) -> None:
        self._missing = self._study.all_missing(self._store)
        self._finishing.of_all_but(self._missing)

    def _everything_left(self) -> list[Portion]:
        study = self._study
        left = np.flatnonzero(self._missing.any(axis=0))
        return regrouped(study.model, study.requests, left, self._missing, self._batch_tokens)

    def _all(self, make: Callable[[], list[Portion]]) -> bool:
        """Runs what `make` gives, and says whether there was anything that others had not claimed."""
        todo, any_done = deque(make()), False
        while todo:
            try:
                any_done |= self._portion(todo[0])
                todo.popleft()
            except _OutOfMemory as error:
                todo = deque(self._in_smaller_batches(make, error.positions))
        return any_done

    def _in_smaller_batches(self, make: Callable[[], list[Portion]], failed: int) -> list[Portion]:
        while self._batch_tokens // 2 >= SMALLEST_BATCH_TOKENS:
            self._batch_tokens //= 2
            todo = make()
            if all(portion.batch.tokens.size < failed for portion in todo):
                self._tell(
                    f"the device is out of memory with batches of {failed} tokens; going on with --batch-tokens "
                    f"{self._batch_tokens}"
                )
                return todo
        raise UserError(
            f"the device is out of memory, and batches of {failed} tokens cannot be made smaller; use a device with "
            "more memory, or --dtype bfloat16"
        )

    def _portion(self, portion: Portion) -> bool:
        """Runs what no other process has claimed of it; False if there is none."""
        study, store = self._study, self._store
        tasks = np.unique(study.task_of[portion.requests])
        ids = study.request_ids[portion.requests]
        claimed = store.claim(
            self._worker, study.cells[np.ix_(tasks, portion.plans)].reshape(-1).tolist(), ids.tolist()
        )
        if not claimed:
            return False
        try:
            owned = portion.requests[np.isin(ids, claimed)]
            still = study.missing(store, portion.plans, owned)
            if still.all() and len(owned) == len(portion.requests):
                self._sweep(portion)
            else:
                missing = np.zeros_like(self._missing)
                missing[np.ix_(portion.plans, owned)] = still
                for part in regrouped(study.model, study.requests, owned, missing, self._batch_tokens):
                    self._sweep(part)
        finally:
            store.release(self._worker, claimed)
        self._finishing.of_all_but(self._missing)
        self._keep(self.work)
        return True

    def _sweep(self, portion: Portion) -> None:
        study, batch = self._study, portion.batch
        lengths = self._lengths[portion.requests]
        pending: list[tuple[int, np.ndarray, np.ndarray]] = []
        swept: list[int] = []
        executed = 0
        began = written = time.perf_counter()
        try:
            for scores in sweep.sweep_batch(study.model, batch, [study.plans[plan] for plan in portion.plans]):
                executed += scores.executed
                plans = portion.plans[list(scores.plans)].tolist()
                pending += [(plan, scores.loglikelihoods, scores.is_greedy) for plan in plans]
                swept += plans
                if time.perf_counter() - written >= WRITE_SECONDS:
                    self._write(portion, pending, {})
                    written = time.perf_counter()
                self._advance(len(plans) * int(lengths.sum()), self._finishing.standing)
        except RuntimeError as error:  # jax.errors.JaxRuntimeError
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _OutOfMemory(batch.tokens.size) from error
        finally:
            seconds = time.perf_counter() - began
            self._write(portion, pending, self._seconds(portion, swept, seconds))
            done = [study.plans[plan] for plan in swept]
            self.work = Work(
                self.work.scores + len(done) * len(portion.requests),
                self.work.executed + executed,
                self.work.distinct + (prefix_tree(done).cost * batch.real_tokens if done else 0),
                self.work.separate + sum(plan.cost for plan in done) * int(lengths.sum()),
                self.work.seconds + seconds,
            )

    def _write(
        self,
        portion: Portion,
        pending: list[tuple[int, np.ndarray, np.ndarray]],
        seconds: Mapping[int, float],
    ) -> None:
        """One transaction; empties `pending` (plan, log-likelihoods, greedy)."""
        study = self._study
        tasks, ids = study.task_of[portion.requests], study.request_ids[portion.requests].tolist()
        self._store.add_scores(
            (
                row
                for plan, loglikelihoods, greedy in pending
                for row in zip(study.cells[tasks, plan].tolist(), ids, loglikelihoods.tolist(), greedy, strict=True)
            ),
            seconds,
        )
        for plan, _, _ in pending:
            self._missing[plan, portion.requests] = False
        pending.clear()

    def _seconds(self, portion: Portion, plans: list[int], seconds: float) -> dict[int, float]:
        """The time of a batch shared out to cells, by their plans' cost and their tasks' tokens."""
        study = self._study
        tokens = np.bincount(study.task_of[portion.requests], self._lengths[portion.requests])
        whole = sum(study.plans[plan].cost for plan in plans) * tokens.sum()
        return {
            int(study.cells[task, plan]): seconds * study.plans[plan].cost * tokens[task] / whole
            for plan in plans
            for task in np.flatnonzero(tokens)
        }

    def _without_targets(self) -> None:
        """Requests with nothing to predict are in no batch: log-likelihood 0, and greedy."""
        study = self._study
        empty = [number for number, request in enumerate(study.requests) if not request.targets]
        rows = [
            (int(study.cells[study.task_of[number], plan]), int(study.request_ids[number]), 0.0, True)
            for number in empty
            for plan in np.flatnonzero(self._missing[:, number])
        ]
        if rows:
            self._store.add_scores(rows, {})
            self._missing[:, empty] = False
            self._finishing.of_all_but(self._missing)

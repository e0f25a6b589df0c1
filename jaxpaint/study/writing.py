"""Computes what a study misses of generative tasks: texts written under every plan, kept as they come.

As `jaxpaint.study.scoring` does for scores: requests are claimed, whatever ends the process, what is written stays, and
what is not is computed by whoever comes next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.generation import generate
from jaxpaint.generation.cache import CacheKind
from jaxpaint.results.store import Store, Worker
from jaxpaint.study.cells import Finishing, Study
from jaxpaint.study.scoring import WAIT_SECONDS, WRITE_SECONDS

PROMPTS_AT_ONCE = 128  # claimed together: enough to share a prefill, few enough that other processes find some
SMALLEST_CACHE_BYTES = 1 << 20


class GenerationRun:
    """One process at work on a study whose tasks are all generative. `written` counts the texts that it wrote.

    `progress` is told the number of tokens that may be written, counted under each plan, and gives what is told of
    those done, with a note; `tell` gets a line that the user should read.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        worker: Worker,
        *,
        kv: CacheKind,
        environment: Mapping[str, Any],
        progress: Callable[[int], Callable[[int, str], None]],
        tell: Callable[[str], None],
    ) -> None:
        self.written = 0
        self._study, self._store, self._worker, self._kv = study, store, worker, kv
        self._finishing, self._progress, self._tell = Finishing(study, store, environment), progress, tell
        self._cache_bytes = budgets().cache_bytes

    def run(self) -> None:
        """Goes on until nothing is missing, waiting for what other processes write.

        Raises:
            UserError: the store cannot be written, a plan that the cache is not defined for, or the device's memory
                does not hold a single text.
        """
        missing = self._look()
        if not missing.any():
            return
        new_tokens = np.array([asked.prompt.max_new_tokens for asked in self._study.prompts])
        self._advance = self._progress(int(missing.sum(axis=0) @ new_tokens))
        waited = False
        while missing.any():
            done = [self._portion(chosen) for chosen in self._portions(missing)]
            if not any(done):
                if not waited:
                    self._tell("waiting for what another process writes of this study")
                waited = True
                time.sleep(WAIT_SECONDS)
            missing = self._look()

    def _look(self) -> np.ndarray:
        """What is missing, after finishing what can be."""
        missing = self._study.all_missing(self._store)
        self._finishing.of_all_but(missing)
        return missing

    def _portions(self, missing: np.ndarray) -> Iterator[Int[np.ndarray, " R"]]:
        """Requests of one task that some plan misses."""
        for task in range(len(self._study.tasks)):
            own = np.flatnonzero(missing.any(axis=0) & (self._study.task_of == task))
            for first in range(0, len(own), PROMPTS_AT_ONCE):
                yield own[first : first + PROMPTS_AT_ONCE]

    def _portion(self, requests: Int[np.ndarray, " R"]) -> bool:
        """Writes what no other process has claimed of it; False if there is none."""
        study, store = self._study, self._store
        task = int(study.task_of[requests[0]])
        ids = study.request_ids[requests]
        claimed = store.claim(self._worker, study.cells[task].tolist(), ids.tolist())
        try:
            owned = requests[np.isin(ids, claimed)]
            plans = np.arange(len(study.plans))
            still = study.missing(store, plans, owned)
            for pattern in np.unique(still, axis=0):
                # Plans that miss the same requests go together.
                together = plans[(still == pattern).all(axis=1)]
                if pattern.any():
                    self._write(task, together, owned[pattern])
        finally:
            store.release(self._worker, claimed)
        if claimed:
            self._look()
        return bool(claimed)

    def _write(self, task: int, plans: Int[np.ndarray, " P"], requests: Int[np.ndarray, " R"]) -> None:
        while True:
            try:
                return self._generate(task, plans, requests)
            except RuntimeError as error:  # jax.errors.JaxRuntimeError
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                self._cache_bytes //= 2
                if self._cache_bytes < SMALLEST_CACHE_BYTES:
                    raise UserError(
                        "the device is out of memory and the cache cannot be made smaller; use a device with more "
                        "memory, or --dtype bfloat16"
                    ) from error
                self._tell(f"the device is out of memory; going on with a cache of {self._cache_bytes / 2**30:.2g} GiB")
                missing = self._study.missing(self._store, plans, requests)
                plans, requests = plans[missing.any(axis=1)], requests[missing.any(axis=0)]

    def _generate(self, task: int, plans: Int[np.ndarray, " P"], requests: Int[np.ndarray, " R"]) -> None:
        study, tokenizer = self._study, self._study.model.tokenizer
        asked = [study.prompts[request] for request in requests]
        pending: list[tuple[int, int, str | None]] = []
        costs = {int(study.cells[task, plan]): study.plans[plan].cost for plan in plans}
        written = time.perf_counter()

        def write() -> None:
            nonlocal written
            now = time.perf_counter()
            cells = {cell for cell, _, _ in pending}
            # The time since the last writing, shared out by the plans' cost.
            share = (now - written) / sum(costs[cell] for cell in cells)
            self._store.add_texts(pending, {cell: share * costs[cell] for cell in cells})
            self.written += len(pending)
            pending.clear()
            written = now

        try:
            for sampling in dict.fromkeys(each.sampling for each in asked):
                members = [number for number, each in enumerate(asked) if each.sampling == sampling]
                found = generate(
                    study.model,
                    [asked[number].prompt for number in members],
                    [study.plans[plan] for plan in plans],
                    sampling=sampling,
                    kv=self._kv,
                    cache_bytes=self._cache_bytes,
                )
                for each in found:
                    number = members[each.prompt]
                    text = None if each.ending == "not finite" else asked[number].text(tokenizer, each)
                    cell = int(study.cells[task, plans[each.plan]])
                    pending.append((cell, int(study.request_ids[requests[number]]), text))
                    self._advance(asked[number].prompt.max_new_tokens, self._finishing.standing)
                    if time.perf_counter() - written >= WRITE_SECONDS:
                        write()
        finally:
            if pending:
                write()

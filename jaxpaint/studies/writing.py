"""Writes what a study misses of generative tasks: texts after prompts, under every plan."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source, with_weights
from jaxpaint.generation.cache import CacheKind
from jaxpaint.plans.plan import Plan
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import Study
from jaxpaint.studies.loop import Found
from jaxpaint.tasks import encoding

PROMPTS_AT_ONCE = 128  # claimed together: enough to share a prefill, few enough that other processes find some
SMALLEST_CACHE_BYTES = 1 << 20


Written: TypeAlias = tuple[int, int, str | None]
"""As `jaxpaint.tasks.encoding.answers` has it."""


class Prompts(NamedTuple):
    """Requests of one task, and the plans to write after them under."""

    requests: Int[np.ndarray, " R"]
    plans: Int[np.ndarray, " P"]


class Writing:
    """A study's texts, as `jaxpaint.studies.loop.Loop` runs it. `written` counts those that were written so far."""

    waiting = "waiting for what another process writes of this study"

    def __init__(self, model: Model | Source, study: Study, kv: CacheKind) -> None:
        self.written, self.model, self.study, self.kv = 0, model, study, kv
        self.cache_bytes = budgets().cache_bytes

    def sizes(self) -> Int[np.ndarray, " requests"]:
        return np.array([asked.prompt.max_new_tokens for asked in self.study.prompts])

    def portions(self, missing: Bool[np.ndarray, "plans requests"]) -> list[Prompts]:
        """Plans that miss the same requests go together."""
        found = []
        for task in range(len(self.study.tasks)):
            own = np.flatnonzero(missing.any(axis=0) & (self.study.task_of == task))
            for first in range(0, len(own), PROMPTS_AT_ONCE):
                some = own[first : first + PROMPTS_AT_ONCE]
                still = missing[:, some]
                found += [
                    Prompts(some[pattern], np.flatnonzero((still == pattern).all(axis=1)))
                    for pattern in np.unique(still, axis=0)
                    if pattern.any()
                ]
        return found

    def compute(self, portion: Prompts) -> Generator[Found, None, None]:
        yield from self.taken(portion, _written(*self._asked(portion), with_weights(self.model)))

    def with_plans(self, portion: Prompts, plans: Int[np.ndarray, " P"]) -> Prompts:
        return portion._replace(plans=plans)

    def job(self, portion: Prompts) -> Callable[[Model], list[Written]]:
        return partial(_all_written, *self._asked(portion))

    def taken(self, portion: Prompts, result: Iterable[Written]) -> Generator[Found, None, None]:
        requests, plans = portion
        for number, plan, text in result:
            self.written += 1
            yield Found(int(plans[plan]), requests[[number]], [(text,)])

    def _asked(self, portion: Prompts) -> tuple[list[encoding.Asked], list[Plan], CacheKind, int]:
        requests, plans = portion
        asked = [self.study.prompts[request] for request in requests]
        under = [self.study.plans[plan] for plan in plans]
        return asked, under, self.kv, self.cache_bytes

    def smaller(self, failed: Prompts, make: Callable[[], list[Prompts]], tell: Callable[[str], None]) -> list[Prompts]:
        self.cache_bytes //= 2
        if self.cache_bytes < SMALLEST_CACHE_BYTES:
            raise UserError(
                "the device is out of memory and the cache cannot be made smaller; use a device with more memory, or "
                "--dtype bfloat16"
            )
        tell(f"the device is out of memory; going on with a cache of {self.cache_bytes / 2**30:.2g} GiB")
        return make()

    def write(self, store: Store, rows: Iterator[tuple[Any, ...]], seconds: Mapping[int, float]) -> None:
        store.add_texts(rows, seconds)


def _written(
    asked: Sequence[encoding.Asked], plans: Sequence[Plan], kv: CacheKind, cache_bytes: int, model: Model
) -> Iterator[Written]:
    return encoding.answers(model, asked, plans, kv=kv, cache_bytes=cache_bytes)


def _all_written(*how: Any) -> list[Written]:
    return list(_written(*how))

"""Scores what a study misses: batches of requests, each swept under the plans that miss it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine import score as engine
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Batch, Request
from jaxpaint.engine.source import Source, with_weights
from jaxpaint.engine.walk import shards
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import Study
from jaxpaint.studies.loop import Found

SMALLEST_BATCH_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Portion:
    """A batch and the plans to run it under, all of which miss all of its requests.

    `requests` are the study's, in the order of `batch.requests`; `plans` are ascending.
    """

    batch: Batch
    requests: Int[np.ndarray, " R"]
    plans: Int[np.ndarray, " P"]


def portions(
    model: Model | Source,
    requests: Sequence[Request],
    missing: Bool[np.ndarray, "plans requests"],
    batch_tokens: int | None,
    packed: Sequence[Batch] | None = None,
) -> list[Portion]:
    """All that is missing. `packed` are the batches of all requests, where they are there already.

    Batches are those of the whole study wherever all of a batch's requests are missing under the same plans. So after
    an interruption, and in another process, batches are the same, and so are their shapes; what is left of others,
    such as after a change of the number of documents, is packed anew.
    """
    if not missing.any():
        return []
    patterns = _patterns(missing)
    found, rest = [], []
    for batch in packed or engine.pack_for(model, requests, batch_tokens):
        if len({patterns[request] for request in batch.requests}) > 1:
            rest.append(batch.requests)
        elif missing[:, batch.requests[0]].any():
            found.append(Portion(batch, batch.requests, np.flatnonzero(missing[:, batch.requests[0]])))
    if rest:
        found += regrouped(model, requests, np.concatenate(rest), missing, batch_tokens)
    return found


def regrouped(
    model: Model | Source,
    requests: Sequence[Request],
    chosen: Int[np.ndarray, " C"],
    missing: Bool[np.ndarray, "plans requests"],
    batch_tokens: int | None,
) -> list[Portion]:
    """What is missing of the chosen requests: those that the same plans miss are packed together."""
    patterns = _patterns(missing)
    groups: dict[bytes, list[int]] = {}
    for request in np.sort(chosen):
        if missing[:, request].any():
            groups.setdefault(patterns[request], []).append(int(request))
    return [
        Portion(batch, np.array(group)[batch.requests], np.flatnonzero(missing[:, group[0]]))
        for group in groups.values()
        for batch in engine.pack_for(model, [requests[request] for request in group], batch_tokens)
    ]


def _patterns(missing: Bool[np.ndarray, "plans requests"]) -> list[bytes]:
    """For each request, the plans that miss it, comparable."""
    return [column.tobytes() for column in np.packbits(missing, axis=0).T]


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


class Scoring:
    """A study's log-likelihoods, as `jaxpaint.studies.loop.Loop` runs it. `work` is what was done so far.

    `batch_tokens` bounds the positions at once (default: by device). A `Source`'s weights are read when something is
    computed here.
    """

    waiting = "waiting for what another process computes of this study"

    def __init__(self, model: Model | Source, study: Study, batch_tokens: int | None) -> None:
        self.work, self.model, self.study = Work(), model, study
        self.batch_tokens = batch_tokens or budgets().score_tokens * shards(model)
        self._packed: list[Batch] | None = None

    def sizes(self) -> Int[np.ndarray, " requests"]:
        return np.array([len(request.tokens) for request in self.study.requests])

    def portions(self, missing: Bool[np.ndarray, "plans requests"]) -> list[Portion]:
        if self._packed is None:
            self._packed = engine.pack_for(self.model, self.study.requests, self.batch_tokens)
        return portions(self.model, self.study.requests, missing, self.batch_tokens, self._packed)

    def compute(self, portion: Portion) -> Generator[Found, None, None]:
        model = with_weights(self.model)
        began = time.perf_counter()
        yield from self._found(
            portion,
            engine.sweep(model, [portion.batch], self._plans(portion)),
            lambda: time.perf_counter() - began,
        )

    def with_plans(self, portion: Portion, plans: Int[np.ndarray, " P"]) -> Portion:
        return replace(portion, plans=plans)

    def job(self, portion: Portion) -> Callable[[Model], tuple[list[engine.PlanScores], float]]:
        return partial(_swept, portion.batch, self._plans(portion))

    def taken(self, portion: Portion, result: tuple[list[engine.PlanScores], float]) -> Iterator[Found]:
        scores, seconds = result
        return self._found(portion, scores, lambda: seconds)

    def _plans(self, portion: Portion) -> list[Plan]:
        return [self.study.plans[plan] for plan in portion.plans]

    def _found(
        self, portion: Portion, swept: Iterable[engine.PlanScores], seconds: Callable[[], float]
    ) -> Generator[Found, None, None]:
        """What was swept of a portion, counted as done, which takes so many `seconds` in the end."""
        plans = self._plans(portion)
        done, executed = [], 0
        try:
            for scores in swept:
                executed += scores.executed
                values = list(zip(scores.loglikelihoods.tolist(), scores.is_greedy.tolist(), strict=True))
                for number in scores.plans:
                    done.append(plans[number])
                    yield Found(int(portion.plans[number]), portion.requests, values)
        finally:
            before, tokens = self.work, sum(len(self.study.requests[request].tokens) for request in portion.requests)
            self.work = Work(
                before.scores + len(done) * len(portion.requests),
                before.executed + executed,
                before.distinct + (prefix_tree(done).cost * portion.batch.real_tokens if done else 0),
                before.separate + sum(plan.applications for plan in done) * tokens,
                before.seconds + seconds(),
            )

    def smaller(self, failed: Portion, make: Callable[[], list[Portion]], tell: Callable[[str], None]) -> list[Portion]:
        size = failed.batch.tokens.size
        while self.batch_tokens // 2 >= SMALLEST_BATCH_TOKENS:
            self.batch_tokens, self._packed = self.batch_tokens // 2, None
            todo = make()
            if all(portion.batch.tokens.size < size for portion in todo):
                tell(
                    f"the device is out of memory with batches of {size} tokens; going on with --batch-tokens "
                    f"{self.batch_tokens}"
                )
                return todo
        raise UserError(
            f"the device is out of memory, and batches of {size} tokens cannot be made smaller; use a device with "
            "more memory, or --dtype bfloat16"
        )

    def write(self, store: Store, rows: Iterator[tuple[Any, ...]], seconds: Mapping[int, float]) -> None:
        store.add_scores(rows, seconds)


def _swept(batch: Batch, plans: Sequence[Plan], model: Model) -> tuple[list[engine.PlanScores], float]:
    """All scores of a batch, and the seconds that they took."""
    began = time.perf_counter()
    return list(engine.sweep(model, [batch], plans)), time.perf_counter() - began

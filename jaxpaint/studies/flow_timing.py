"""A small piece of the flow of facts to be timed: two layers of a model's sizes, and as many facts as fit a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.runs import rows_at_once
from jaxpaint.engine.model import Model
from jaxpaint.engine.random_weights import random_pair
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan, Repeat

# Layer applications of the two plans whose times tell a layer's from the rest.
FEW, MANY = 2, 10


@dataclass(frozen=True)
class Piece:
    """A model of two layers with random weights, and the first of the facts, two at least where there are as many."""

    model: Model
    facts: Asked

    @classmethod
    def of(cls, model: Source, to_ask: Asked) -> Piece:
        """No weights are read; nothing is asked on top."""
        small = random_pair(model)
        number = max(2, rows_at_once(model, to_ask.prompts, Plan.of(range(model.num_layers))))
        first = replace(
            to_ask,
            facts=to_ask.facts[:number],
            prompts=to_ask.prompts[:number],
            answers=to_ask.answers[:number],
            attributes=to_ask.attributes[:number],
            words=to_ask.words[:number],
            setting=replace(to_ask.setting, extras=()),
        )
        return cls(replace(small, store=model.store), first)  # whose tokenizer it is


@dataclass(frozen=True)
class Seconds:
    """Of a layer application, and of all else."""

    layer: float
    rest: float

    def of(self, applications: int) -> float:
        return applications * self.layer + self.rest

    def each(self, number: int) -> Seconds:
        """Of one of so many that were timed together."""
        return Seconds(self.layer / number, self.rest / number)


def timed(work: Callable[[Plan], None]) -> Seconds:
    """Of work under plans of two layers."""
    few, many = (least_seconds(work, count) for count in (FEW, MANY))
    layer = max(many - few, 0.0) / (MANY - FEW)
    return Seconds(layer, max(few - FEW * layer, 0.0))


def least_seconds(work: Callable[[Plan], None], applications: int) -> float:
    """Of two times, compilation left out."""
    plan = Plan.of(Repeat(Plan.of(0, 1).root, applications // 2))
    work(plan)  # compiles
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work(plan)
        times.append(time.perf_counter() - start)
    return min(times)

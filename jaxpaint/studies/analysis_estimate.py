"""What a study's analyses still have to compute, and how long it takes; no weights are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpaint.analysis.fits import fit_bytes, passes
from jaxpaint.analysis.probes import Probe
from jaxpaint.analysis.states import BY_NAME, MAX_STATES, analyse, batches, fit
from jaxpaint.base.words import count
from jaxpaint.engine.random_weights import random_pair
from jaxpaint.engine.rows import TextRows, checked_texts
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import shards
from jaxpaint.plans.plan import Plan, Repeat
from jaxpaint.plans.tree import Branch, prefix_tree, units
from jaxpaint.results.damage import reading
from jaxpaint.results.reading import analysed
from jaxpaint.studies.proposing import foreseen
from jaxpaint.studies.spec import StudySpec

# Steps of the two plans whose times tell a layer's from the rest.
FEW, MANY = 2, 6
SHOWN_BYTES = 10**8  # of memory: less need not be told
TIMED_POSITIONS = 256  # of the batch that is timed, or one row: a lens costs many layers


@dataclass(frozen=True)
class AnalysisRates:
    """Seconds for a position: of a layer, of what is read of a state and its step, and of a state and one before it."""

    layer: float
    state: float
    pair: float


@dataclass(frozen=True)
class AnalysisWork:
    """What analyses lack, every shared beginning of plans once: layer applications, states that they give, and pairs
    of states compared, each on all `positions`, padding included. `fit_bytes` are what fits take of the host's memory
    at least, `largest` is the largest batch.
    """

    plans: int
    wanted: int
    probes: tuple[Probe, ...]
    texts: int
    tokens: int
    positions: int
    applications: int
    states: int
    pairs: int
    fit_bytes: int
    largest: TextRows

    def __str__(self) -> str:
        """In words, in one line."""
        read = f"{count(self.texts, 'text')}, {count(self.tokens, 'token')}"
        compared = f" and {self.pairs:,} pairs of states" if self.pairs else ""
        done = self.wanted - self.plans
        there = f", {done} of {count(self.wanted, 'plan')} analysed" if done else ""
        fits = f", {self.fit_bytes / 1e9:.1f} GB for fits" if self.fit_bytes >= SHOWN_BYTES else ""
        return f"{read}: {self.applications:,} applications a token, {self.states:,} states{compared}{fits}{there}"

    def seconds(self, rates: AnalysisRates) -> float:
        """For all positions, compilation and what fits are solved in left out."""
        once = self.applications * rates.layer + self.states * rates.state + self.pairs * rates.pair
        return self.positions * once


def analysis_work(spec: StudySpec, model: Source) -> AnalysisWork:
    """Of the spec's shard. Raises UserError for a task whose texts cannot be loaded."""
    from jaxpaint.studies.analyses import analysis_texts
    from jaxpaint.studies.run import analysis_tasks  # lm-eval takes a while to import

    tokens, settings = analysis_texts(model, spec.bos, analysis_tasks(spec), spec.analysis_samples)  # type: ignore[arg-type]
    texts = checked_texts(tokens, model.config)
    wanted = spec.analysed_plans(spec.shard_variants(model.num_layers, foreseen(spec, model)[0]))
    plans = _lacking(spec, model, wanted, settings)
    rows = list(batches(model, texts, plans or [Plan.of(0)], spec.batch_tokens))
    probes = tuple(BY_NAME[name] for name in spec.analyses)
    # The full model runs once more where it answers, and for each pass of fits.
    fits = dict.fromkeys(each for probe in probes for each in probe.fits) if plans else {}
    first = (any(probe.reads == "lens" for probe in probes) if plans else 0) + len(passes(fits, model.config))
    states, pairs = _states(prefix_tree(plans)) if plans else (0, 0)
    return AnalysisWork(
        plans=len(plans),
        wanted=len(wanted),
        probes=probes,
        texts=len(texts),
        tokens=sum(map(len, texts)),
        positions=sum(batch.tokens.size for batch in rows),
        applications=(prefix_tree(plans).cost if plans else 0) + first * model.num_layers,
        states=states,
        pairs=pairs if any(probe.reads == "pair" for probe in probes) else 0,
        fit_bytes=fit_bytes(fits, model.config),
        largest=max(rows, key=lambda batch: batch.tokens.size),
    )


def _lacking(spec: StudySpec, model: Source, plans: Sequence[Plan], settings: dict[str, Any]) -> list[Plan]:
    plans = [plan for plan in plans if len(units(plan)) < MAX_STATES]
    if not spec.store.exists():
        return plans
    with reading(spec.store) as connection:
        key = model.manifest["fingerprint"], model.computed_in
        there = [analysed(connection, *key, name, settings) for name in spec.analyses]
    return [plan for plan in plans if any(str(plan) not in found for found in there)]


def _states(tree: Branch) -> tuple[int, int]:
    """The states of a tree's plans, the first included, and their pairs with themselves and those on the way."""

    def below(branch: Branch, before: int) -> tuple[int, int]:
        own = len(branch.units)
        children = [below(child, before + own) for child in branch.branches]
        pairs = sum(range(before + 1, before + own + 1))
        return own + sum(states for states, _ in children), pairs + sum(more for _, more in children)

    states, pairs = below(tree, 1)
    return 1 + states, 1 + pairs


def analysis_rates(model: Source, work: AnalysisWork) -> AnalysisRates:
    """Times rows of the largest batch through two layers of random weights, of the model's sizes, on this machine."""
    small = random_pair(model)
    tokens = work.largest.tokens
    height = max(shards(model), min(work.largest.real_rows, TIMED_POSITIONS // tokens.shape[1]))
    tokens = tokens[:height]
    texts = tokens.tolist()  # whole rows: padding takes as long
    plans = {count: Plan.of(Repeat(Plan.of(0, 1).root, count // 2)) for count in (FEW, MANY)}

    def seconds(steps: int, probes: Sequence[Probe]) -> float:
        how: dict[str, Any] = {"probes": probes, "batch_tokens": tokens.size}
        how["fitted"] = fit(small, (texts * 2)[: max(2, len(texts))], probes, batch_tokens=tokens.size)

        def once() -> float:
            start = time.perf_counter()
            analyse(small, texts, [plans[steps]], **how)
            return time.perf_counter() - start

        once()  # compiles
        return min(once() for _ in range(2))

    cheapest = [BY_NAME["variance"]]
    of_states = [probe for probe in work.probes if probe.reads != "pair"]
    few, many = (seconds(steps, cheapest) for steps in (FEW, MANY))
    states = seconds(MANY, of_states) if of_states else many
    everything = seconds(MANY, work.probes) if len(of_states) < len(work.probes) else states
    rates = np.maximum(0, [(many - few) / (MANY - FEW), (states - many) / (MANY + 1), everything - states])
    layer, state, pairs = (rates / tokens.size).tolist()
    return AnalysisRates(layer, state, pairs / ((MANY + 1) * (MANY + 2) / 2))

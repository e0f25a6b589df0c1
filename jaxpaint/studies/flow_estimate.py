"""How much there is to compute of a flow of facts, and how long it takes; no weights are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpaint.analysis.asking import CLOCK, PATCHES, SUBLAYERS, Asked
from jaxpaint.analysis.flow import read_off, windows_of
from jaxpaint.analysis.knockouts import batch_shape, knock_out
from jaxpaint.analysis.runs import rows_at_once
from jaxpaint.base.words import count
from jaxpaint.engine.random_weights import random_model
from jaxpaint.engine.source import Source
from jaxpaint.models import with_layers
from jaxpaint.plans.plan import Plan, Repeat
from jaxpaint.plans.tree import prefix_tree
from jaxpaint.results.damage import reading
from jaxpaint.results.flow import settings_of
from jaxpaint.results.kinds import FLOW
from jaxpaint.results.reading import analysed
from jaxpaint.studies.estimate import Line, device, duration, instead
from jaxpaint.studies.flow import PLANS_AT_ONCE

# Layer applications of the two plans whose times tell a layer's from the rest.
FEW, MANY = 2, 10
NOT_TIMED = (PATCHES, SUBLAYERS, CLOCK)


@dataclass(frozen=True)
class FlowRates:
    """Seconds: of a layer on one position of knockouts, of what one fact's leaves say; and of ordinary runs of one
    fact, which are read off, by layer application and in all.
    """

    layer: float
    leaves: float
    applied: float
    read: float


def describe_flow(model: Source, to_ask: Asked, plans: Sequence[Plan], store: Path | None) -> Iterator[Line]:
    """Lines about the flow of facts under plans, of which the store, where there is one, has some; each as soon as it
    is known. Raises PlanError for a plan that does not fit.
    """
    whole = list(dict.fromkeys(model.checked_plan(plan).of_whole_layers("the flow of facts") for plan in plans))
    sizes = f"{count(model.num_layers, 'layer')}, {model.computed_in}"
    yield Line("model", sizes, {"num_layers": model.num_layers})
    facts, tokens = len(to_ask.facts), sum(len(prompt.tokens) for prompt in to_ask.prompts)
    subjects = len({fact.subject for fact in to_ask.facts})
    told = f"{count(facts, 'fact')} of {count(subjects, 'subject')}, {count(tokens, 'token')}"
    yield Line("facts", told, {"facts": facts, "subjects": subjects, "tokens": tokens})
    windows = windows_of(to_ask.setting, model.num_layers, whole)
    leaves = len(windows) * len(to_ask.prompts[0].sets)
    told = f"{count(leaves, 'knockout')} a fact and plan, in {count(len(windows), 'window')} (of {to_ask.setting.size})"
    yield Line("blocked", told, {"knockouts": leaves, "windows": len(windows)})
    yield Line("plans", count(len(whole), "plan"), {"plans": len(whole)})
    lacking = whole
    if store is not None and store.exists():
        with reading(store) as connection:
            key = model.manifest["fingerprint"], model.computed_in, FLOW
            there = analysed(connection, *key, settings_of(to_ask.setting))
        lacking = [plan for plan in whole if str(plan) not in there]
        done = len(whole) - len(lacking)
        yield Line("store", f"{store} has {done:,} of {count(len(whole), 'plan')}", {"finished_plans": done})
    if not lacking:
        return
    # As they are computed: a store's are kept in parts.
    ordered = lacking if store is None else sorted(lacking, key=str)
    size = len(ordered) if store is None else PLANS_AT_ONCE
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    distinct, separate = sum(prefix_tree(part).cost for part in parts), sum(plan.applications for plan in ordered)
    told = instead(distinct, separate, "applications a position", "plan by plan")
    yield Line("layers", told, {"applications": distinct, "separate_applications": separate})
    height, width = batch_shape(model, to_ask.prompts, len(windows))
    positions = height * width * -(-facts // height)
    rates = flow_rates(model, to_ask, windows, height)
    knocked = distinct * positions * rates.layer + len(ordered) * facts * rates.leaves
    read = facts * (separate * rates.applied + len(ordered) * rates.read)
    told = f"{duration(knocked + read)} (from one batch on this {device()}), were all facts known; and compiling"
    yield Line("time", told, {"seconds": knocked + read})
    if more := [name for name in NOT_TIMED if name in to_ask.setting.extras]:
        options = " and ".join(f"--{name}" for name in more)
        yield Line("", f"not counted: what {options} {'ask' if len(more) > 1 else 'asks'} on top", {})


def flow_rates(model: Source, to_ask: Asked, windows: Sequence, height: int) -> FlowRates:
    """Times one batch through two layers of random weights, of the model's sizes, on this machine's device."""
    config = with_layers(model.config, range(2))
    small = random_model(config, dtype=str(model.dtype), weights=model.weights)  # type: ignore[arg-type]
    small = replace(small, store=model.store)  # whose tokenizer it is
    full = Plan.of(range(model.num_layers))
    few_facts = _first(to_ask, rows_at_once(model, to_ask.prompts, full))

    def blocked(plan: Plan) -> None:
        knock_out(small, to_ask.prompts[:height], [plan], windows)

    def read(plan: Plan) -> None:
        read_off(small, few_facts, plan)

    positions = height * batch_shape(model, to_ask.prompts, len(windows))[1]
    layer, rest = _timed(blocked)
    applied, once = (each / len(few_facts.facts) for each in _timed(read))
    return FlowRates(layer / positions, rest / height, applied, once)


def _first(to_ask: Asked, number: int) -> Asked:
    """The first of the facts, two at least where there are as many, and nothing asked on top."""
    number = max(2, number)
    return replace(
        to_ask,
        facts=to_ask.facts[:number],
        prompts=to_ask.prompts[:number],
        answers=to_ask.answers[:number],
        attributes=to_ask.attributes[:number],
        words=to_ask.words[:number],
        setting=replace(to_ask.setting, extras=()),
    )


def _timed(work: Callable[[Plan], None]) -> tuple[float, float]:
    """Seconds of a layer application, and of all else."""
    pair = Plan.of(0, 1).root
    found = []
    for applications in (FEW, MANY):
        plan = Plan.of(Repeat(pair, applications // 2))
        work(plan)  # compiles
        times = []
        for _ in range(2):
            start = time.perf_counter()
            work(plan)
            times.append(time.perf_counter() - start)
        found.append(min(times))
    few, many = found
    layer = max(many - few, 0.0) / (MANY - FEW)
    return layer, max(few - FEW * layer, 0.0)

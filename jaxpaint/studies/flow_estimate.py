"""How much there is to compute of a flow of facts, and how long it takes; no weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.flow import read_off, windows_of
from jaxpaint.analysis.knockouts import batch_shape, knock_out
from jaxpaint.analysis.runs import row_bytes, rows_at_once
from jaxpaint.base.budgets import held_state_bytes, on_cpu
from jaxpaint.base.words import count
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import LIVE_STATES
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree
from jaxpaint.results.damage import reading
from jaxpaint.results.flow import settings_of
from jaxpaint.results.kinds import FLOW
from jaxpaint.results.reading import analysed
from jaxpaint.studies.estimate import Line, device, duration, instead, memory_size, more_than_left
from jaxpaint.studies.flow import PLANS_AT_ONCE
from jaxpaint.studies.flow_extras_estimate import ExtraWork
from jaxpaint.studies.flow_timing import Piece, timed


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
    work = ExtraWork.of(model, to_ask, ordered, len(parts))
    yield from work.lines()
    height, width = batch_shape(model, to_ask.prompts, len(windows))
    yield _memory(model, to_ask, parts, height * width * model.config.hidden_size * model.dtype.itemsize, work)
    positions = height * width * -(-facts // height)
    piece = Piece.of(model, to_ask)
    rates = flow_rates(model, piece, to_ask, windows, height)
    knocked = distinct * positions * rates.layer + len(ordered) * facts * rates.leaves
    read = facts * (separate * rates.applied + len(ordered) * rates.read)
    extra = work.seconds(piece)
    seconds = knocked + read + sum(extra.values())
    shares = "".join(f"--{name} {duration(each).removeprefix('about ')}, " for name, each in extra.items())
    told = f"{duration(seconds)} ({shares}from one batch on this {device()}), were all facts known; and compiling"
    yield Line("time", told, {"seconds": seconds} | {f"{name}_seconds": each for name, each in extra.items()})


def flow_rates(model: Source, piece: Piece, to_ask: Asked, windows: Sequence, height: int) -> FlowRates:
    """Times one batch through the piece, on this machine's device."""

    def blocked(plan: Plan) -> None:
        knock_out(piece.model, to_ask.prompts[:height], [plan], windows)

    def read(plan: Plan) -> None:
        read_off(piece.model, piece.facts, plan)

    positions = height * batch_shape(model, to_ask.prompts, len(windows))[1]
    knocked, once = timed(blocked), timed(read).each(len(piece.facts.facts))
    return FlowRates(knocked.layer / positions, knocked.rest / height, once.layer, once.rest)


def _memory(model: Source, to_ask: Asked, parts: Sequence[Sequence[Plan]], state_bytes: int, work: ExtraWork) -> Line:
    """Parameters, states held where plans part or kept of a batch's run, and what the clock takes."""
    held = max(prefix_tree(part).held for part in parts) * state_bytes
    longest = max((plan for part in parts for plan in part), key=lambda plan: plan.applications)
    kept = rows_at_once(model, to_ask.prompts, longest) * row_bytes(model, to_ask.prompts, longest)
    states = max(min(held, held_state_bytes()) + (1 + LIVE_STATES) * state_bytes, kept * (2 if on_cpu() else 1))
    clock = 0 if work.clock is None else work.clock.bytes
    whole = model.parameter_bytes + states + clock
    also = f", clock {memory_size(clock)}" if clock else ""
    told = f"{memory_size(whole)} (parameters {memory_size(model.parameter_bytes)}, states {memory_size(states)}{also})"
    numbers = {"memory_bytes": whole} | ({"clock_bytes": clock} if clock else {})
    return Line("memory", f"{told}, and a layer's own{more_than_left(whole)}", numbers)

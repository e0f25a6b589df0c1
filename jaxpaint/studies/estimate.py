"""How much there is to compute in a study, and what it needs of memory and time; no weights are read."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from jaxpaint.base.budgets import held_state_bytes, on_cpu
from jaxpaint.base.memory import memory_left
from jaxpaint.base.words import count
from jaxpaint.engine.head import head_chunk, vocabulary_block
from jaxpaint.engine.packing import Batch, Request
from jaxpaint.engine.random_weights import random_pair
from jaxpaint.engine.score import pack_for, sweep
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import LIVE_STATES
from jaxpaint.plans.plan import Plan, Repeat
from jaxpaint.plans.shards import shard_of
from jaxpaint.plans.tree import Branch, prefix_tree
from jaxpaint.report.duration import report_seconds
from jaxpaint.results.damage import reading
from jaxpaint.results.schema import canonical_json
from jaxpaint.results.scores import covered, seconds_per_application
from jaxpaint.studies.analysis_estimate import analysis_rates, analysis_work
from jaxpaint.studies.proposing import calibration_texts, foreseen
from jaxpaint.studies.spec import StudySpec

if TYPE_CHECKING:
    from jaxpaint.tasks.requests import TaskRequests

# Layer applications of the two plans whose times tell a layer's from the head's.
FEW, MANY = 2, 10


@dataclass(frozen=True)
class Line:
    """What is said of one thing, and the numbers in it by name: counts, bytes, seconds."""

    name: str
    text: str
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.name:8}{self.text}"


@dataclass(frozen=True)
class PlanWork:
    """Of distinct plans, in layer applications per token: `distinct` with every shared prefix once, `separate` plan
    by plan. `ends` are the places where the tree's plans end, each of which runs the head; `held` the hidden states
    held at once while it is walked.
    """

    plans: int
    distinct: int
    separate: int
    ends: int
    held: int


@dataclass(frozen=True)
class TokenWork:
    """Of requests, in tokens: `separate` each request alone, `distinct` shared prefixes once, `computed`
    with padding; `scored` are the positions that the head runs on.
    """

    requests: int
    separate: int
    distinct: int
    computed: int
    scored: int


@dataclass(frozen=True)
class Rates:
    """Seconds for one layer on one position, and for the head on one scored position."""

    layer: float
    head: float


@dataclass(frozen=True)
class MemoryUse:
    """Bytes at the peak, each its own: what the compiler needs within a layer comes on top."""

    parameters: int
    held_states: int
    logits: int

    @property
    def total(self) -> int:
        return self.parameters + self.held_states + self.logits


def plan_work(plans: Collection[Plan]) -> PlanWork:
    """Counts the distinct ones of `plans`."""
    different = list(dict.fromkeys(plans))
    if not different:
        return PlanWork(0, 0, 0, 0, 0)
    tree = prefix_tree(different)
    return PlanWork(len(different), tree.cost, sum(plan.applications for plan in different), _ends(tree), tree.held)


def shard_work(plans: Collection[Plan], count: int) -> list[PlanWork]:
    """The work of each of `count` shards, in their order."""
    different = list(dict.fromkeys(plans))
    shards: list[list[Plan]] = [[] for _ in range(count)]
    for plan, shard in zip(different, shard_of(different, count), strict=True):
        shards[shard - 1].append(plan)
    return [plan_work(own) for own in shards]


def token_work(requests: Sequence[Request], batches: Sequence[Batch]) -> TokenWork:
    """Counts `requests` and the batches they were packed into (`jaxpaint.engine.packing.pack`)."""
    return TokenWork(
        len(requests),
        sum(len(request.tokens) for request in requests),
        sum(batch.real_tokens for batch in batches),
        sum(batch.tokens.size for batch in batches),
        sum(batch.count for batch in batches),
    )


def seconds_needed(plans: PlanWork, tokens: TokenWork, rates: Rates) -> float:
    """Seconds for all plans on all tokens, recomputation and compilation left out."""
    return plans.distinct * tokens.computed * rates.layer + plans.ends * tokens.scored * rates.head


def memory_needed(
    plans: PlanWork, *, parameter_bytes: int, state_bytes: int, held_bytes: int, logits_bytes: int
) -> MemoryUse:
    """`state_bytes` is one batch's hidden states, `held_bytes` the bound on those held where plans part.

    More states are alive: a batch's first, and those of `jaxpaint.engine.walk`.
    """
    return MemoryUse(
        parameter_bytes, min(plans.held * state_bytes, held_bytes) + (1 + LIVE_STATES) * state_bytes, logits_bytes
    )


def _ends(branch: Branch) -> int:
    return bool(branch.ends) + sum(map(_ends, branch.branches))


def describe(spec: StudySpec, store: Path, *, reports: bool = False) -> Iterator[Line]:
    """Lines about the study of the model in `store`, each as soon as it is known: plans first, then tasks.

    The last one is of the report, where one comes after it (`reports`).

    Raises UserError for plans that do not fit the model, or tasks that cannot be loaded; the lines before it stand.
    """
    model = Source.of(store, spec.dtype, spec.weights)  # type: ignore[arg-type]
    yield _line(
        "model",
        f"{count(model.num_layers, 'layer')}, {_size(model.parameters)} parameters, {model.computed_in}",
        num_layers=model.num_layers,
        parameters=model.parameters,
    )
    measured, is_known = foreseen(spec, model)
    variants = spec.variants(model.num_layers, measured)
    plans = [variant.plan for variant in variants]
    whole = plan_work(plans)
    named = f"{count(whole.plans, 'plan')} ({count(len(variants), 'variant')} of strategies)"
    yield _line("plans", named, plans=whole.plans, variants=len(variants))
    if not is_known:
        names, verb = ", ".join(spec.measurements), "is" if len(spec.measurements) == 1 else "are"
        texts = count(len(calibration_texts(spec.calibration)), "text")
        others = "others of their cost are counted here"
        yield _line("", f"some are proposed once {names} of {texts} {verb} measured; {others}")
    told = instead(whole.distinct, whole.separate, "applications a token", "plan by plan")
    yield _line("layers", told, applications=whole.distinct, separate_applications=whole.separate)
    own = whole
    if spec.shard[1] > 1:
        shards = shard_work(plans, spec.shard[1])
        own = shards[spec.shard[0] - 1]
        costs = [shard.distinct for shard in shards]
        work = f"{count(own.plans, 'plan')}, {own.distinct:,} applications a token"
        yield _line("shard", f"{spec.shard[0]} of {spec.shard[1]}: {work}")
        again = sum(costs) / whole.distinct - 1
        yield _line("", f"shards have {min(costs):,} to {max(costs):,}; together {again:.1%} more than in one")
    if spec.analyses:
        texts = f"{count(spec.analysis_samples, 'text')} of {spec.analysis_task}"
        analysed = count(len(spec.analysed_plans(spec.shard_variants(model.num_layers, measured))), "plan")
        yield _line("also", f"{', '.join(spec.analyses)} of {analysed} on {texts}")
    documents = 0
    if spec.tasks and own.plans:
        documents = yield from _of_tasks(spec, model, own)
    if spec.analyses:
        todo = analysis_work(spec, model)
        yield _line("states", str(todo))
        if todo.plans:
            seconds = todo.seconds(analysis_rates(model, todo))
            told = f"{duration(seconds)} for analyses (from one batch on this {device()}), and compiling"
            yield _line("", told, analysis_seconds=seconds)
    if reports:
        seconds = report_seconds(own.plans, documents)
        yield _line("report", f"{duration(seconds)} for intervals and figures at the end", report_seconds=seconds)


def _of_tasks(spec: StudySpec, model: Source, own: PlanWork) -> Generator[Line, None, int]:
    """Lines about the tasks, and what they take under the shard's plans; returns how many documents they have."""
    from jaxpaint.studies.run import spec_requests, spec_tasks  # lm-eval takes a while to import

    asked = spec_requests(spec, model, spec_tasks(spec))
    for number, task in enumerate(asked):
        yield _line("" if number else "tasks", _task_text(task))
    documents = sum(task.documents for task in asked)
    tasks = [task for task in asked if not task.is_generative]
    requests = [request for task in tasks for request in task.requests]
    if not requests:
        return documents
    batches = pack_for(model, requests, spec.batch_tokens)
    tokens = token_work(requests, batches)
    told = instead(tokens.distinct, tokens.separate, "distinct", "text by text")
    yield _line("tokens", told, tokens=tokens.distinct, separate_tokens=tokens.separate, requests=tokens.requests)
    distinct, separate = own.distinct * tokens.distinct, own.separate * tokens.separate
    yield _line("work", instead(distinct, separate, "applications", "plan by plan, text by text"))
    if spec.store.exists():
        todo = unfinished(spec, model, tasks)
        done = own.plans - todo.plans
        yield _line("store", f"{spec.store} has finished {done:,} of {count(own.plans, 'plan')}", finished_plans=done)
        own = todo
        if not own.plans:
            return documents
    largest = max(batches, key=lambda batch: batch.tokens.size)
    used = _memory(model, own, largest)
    yield _line("memory", _memory_text(used), memory_bytes=used.total)
    rates, source = _earlier_rates(spec.store), "as fast as the runs in the store"
    if rates is None:
        rates, source = measured_rates(model, largest), f"from one batch on this {device()}"
    seconds = seconds_needed(own, tokens, rates)
    yield _line("time", f"{duration(seconds)} ({source}), and compiling", seconds=seconds)
    return documents


def unfinished(spec: StudySpec, model: Source, tasks: Sequence[TaskRequests]) -> PlanWork:
    """The work of those plans of the spec's shard that the store does not have finished on all tasks."""
    with reading(spec.store) as connection:
        documents = covered(connection, model.manifest["fingerprint"], model.computed_in)

    def is_finished(plan: Plan) -> bool:
        keys = ((t.name, t.version, t.num_fewshot, t.bos, canonical_json(t.settings)) for t in tasks)
        return all(documents.get((str(plan), *key), 0) >= task.documents for key, task in zip(keys, tasks, strict=True))

    own = dict.fromkeys(variant.plan for variant in spec.shard_variants(model.num_layers, foreseen(spec, model)[0]))
    return plan_work([plan for plan in own if not is_finished(plan)])


def measured_rates(model: Source, batch: Batch) -> Rates:
    """Times one batch through two layers of random weights, of the model's sizes, on this machine's device."""
    small = random_pair(model)
    pair = Plan.of(0, 1).root
    plans = [Plan.of(Repeat(pair, count // 2)) for count in (FEW, MANY)]

    def seconds(plan: Plan) -> float:
        start = time.perf_counter()
        for _ in sweep(small, [batch], [plan]):
            pass
        return time.perf_counter() - start

    for plan in plans:
        seconds(plan)  # compiles
    few, many = (min(seconds(plan) for _ in range(2)) for plan in plans)
    layer = max(many - few, 0.0) / (MANY - FEW)
    return Rates(layer / batch.tokens.size, max(few - FEW * layer, 0.0) / max(batch.count, 1))


def _earlier_rates(store: Path) -> Rates | None:
    """What the runs in a store took per layer application, heads included; None where that says nothing."""
    if not store.exists():
        return None
    with reading(store) as connection:
        seconds = seconds_per_application(connection)
    return None if seconds is None else Rates(seconds, 0.0)


def _task_text(task: TaskRequests) -> str:
    if task.is_generative:
        tokens = sum(len(asked.prompt.tokens) for asked in task.prompts)
        most = max(asked.prompt.max_new_tokens for asked in task.prompts)
        prompt_tokens = f"{count(task.documents, 'document')}, {count(tokens, 'prompt token')}"
        return f"{task.name}: {prompt_tokens}, up to {most} new ones each; not counted below"
    tokens = sum(len(request.tokens) for request in task.requests)
    requests = f"{count(task.documents, 'document')}, {count(len(task.requests), 'request')}"
    return f"{task.name}: {requests}, {count(tokens, 'token')}"


def _memory(model: Source, plans: PlanWork, batch: Batch) -> MemoryUse:
    vocabulary = model.config.vocab_size
    return memory_needed(
        plans,
        parameter_bytes=model.parameter_bytes,
        state_bytes=batch.tokens.size * model.config.hidden_size * model.dtype.itemsize,
        held_bytes=held_state_bytes(),
        logits_bytes=4 * vocabulary_block(vocabulary) * head_chunk(vocabulary, batch.scored.size),
    )


def _memory_text(used: MemoryUse) -> str:
    parts = f"parameters {memory_size(used.parameters)}, hidden states {memory_size(used.held_states)}"
    text = f"{memory_size(used.total)} ({parts}, logits {memory_size(used.logits)}), and a layer's own"
    return text + more_than_left(used.total)


def more_than_left(needed: int) -> str:
    """Words where this machine has less memory left than the bytes needed."""
    left = memory_left() if on_cpu() else None
    return "" if left is None or needed <= left else f": more than the {memory_size(left)} left here"


def device() -> str:
    """That of this machine, by its kind."""
    return jax.devices()[0].device_kind


def _line(name: str, text: str, **numbers: float) -> Line:
    return Line(name, text, numbers)


def instead(distinct: int, separate: int, what: str, otherwise: str) -> str:
    """How much work there is, and how much it would be otherwise."""
    times = f" ({separate / distinct:.1f} x)" if distinct else ""
    return f"{_big(distinct)} {what}, {otherwise} {_big(separate)}{times}"


def _big(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else _size(number)


def _size(number: float) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(number)


def memory_size(number: int) -> str:
    """Bytes, for reading."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """For reading."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {minutes:.0f} min"
    return f"about {minutes / 60:.1f} h" if minutes < 48 * 60 else f"about {minutes / 1440:.1f} days"

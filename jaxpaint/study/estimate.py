"""`jaxpaint study --dry-run`: what a study will compute, in words. No weights are read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxpaint.base.budgets import budgets
from jaxpaint.base.words import count
from jaxpaint.engine.head import head_chunk, pack_for, vocabulary_block
from jaxpaint.engine.model import Model, attention_implementation, random_model, resolve_dtype
from jaxpaint.engine.packing import Batch
from jaxpaint.engine.score import sweep_batch
from jaxpaint.models import abstract_model, with_layers
from jaxpaint.models.checkpoint import read_config
from jaxpaint.plans.plan import Plan, Repeat
from jaxpaint.results.schema import canonical_json, reading
from jaxpaint.study.spec import StudySpec
from jaxpaint.study.study_work import PlanWork, Rates, memory_needed, plan_work, seconds_needed, shard_work, token_work
from jaxpaint.tasks.load import load_tasks
from jaxpaint.tasks.local_data import parse_data_option

if TYPE_CHECKING:
    from jaxpaint.tasks.requests import TaskRequests

# Layer applications of the two plans whose times tell a layer's from the head's.
FEW, MANY = 2, 10


def describe(spec: StudySpec, store: Path) -> Iterator[str]:
    """Lines about the study of the model in `store`, each as soon as it is known: plans first, then tasks.

    Raises:
        UserError: plans that do not fit the model, or tasks that cannot be loaded; the lines before it stand.
    """
    model = weightless(spec, store)
    yield _line("model", f"{count(model.num_layers, 'layer')}, {_size(_parameters(model))} parameters, {model.dtype}")
    variants = spec.variants(model.num_layers)
    plans = [variant.plan for variant in variants]
    whole = plan_work(plans)
    yield _line("plans", f"{count(whole.plans, 'plan')} ({count(len(variants), 'variant')} of strategies)")
    yield _line("layers", _instead(whole.distinct, whole.separate, "applications a token", "plan by plan"))
    own = whole
    if spec.shard[1] > 1:
        shards = shard_work(plans, spec.shard[1])
        own = shards[spec.shard[0] - 1]
        yield from _shard_lines(spec.shard[0], shards, whole)
    if spec.analyses:
        texts = f"{count(spec.analysis_samples, 'text')} of {spec.analysis_task}"
        analysed = count(len(spec.analysed_plans(model.num_layers)), "plan")
        yield _line("also", f"{', '.join(spec.analyses)} of {analysed} on {texts}, not counted below")
    if not spec.tasks or not own.plans:
        return
    tasks = _load(spec, model)
    for number, task in enumerate(tasks):
        yield _line("" if number else "tasks", _task_text(task))
    tasks = [task for task in tasks if not task.is_generative]
    requests = [request for task in tasks for request in task.requests]
    if not requests:
        return
    batches = pack_for(model, requests, spec.batch_tokens)
    tokens = token_work(requests, batches)
    yield _line("tokens", _instead(tokens.distinct, tokens.separate, "distinct", "text by text"))
    work = own.distinct * tokens.distinct, own.separate * tokens.separate
    yield _line("work", _instead(*work, "applications", "plan by plan, text by text"))
    if spec.store.exists():
        todo = unfinished(spec, model, tasks)
        yield _line("store", f"{spec.store} has finished {own.plans - todo.plans:,} of {count(own.plans, 'plan')}")
        own = todo
        if not own.plans:
            return
    largest = max(batches, key=lambda batch: batch.tokens.size)
    yield _line("memory", _memory_text(model, own, largest))
    rates, source = _earlier_rates(spec.store), "as fast as the runs in the store"
    if rates is None:
        rates, source = measured_rates(model, largest), f"from one batch on this {jax.devices()[0].device_kind}"
    yield _line("time", f"{_duration(seconds_needed(own, tokens, rates))} ({source}), and compiling")


def weightless(spec: StudySpec, store: Path) -> Model:
    """The model with shapes in place of parameters: it encodes and packs, and cannot run."""
    config = read_config(store)
    dtype = resolve_dtype(spec.dtype)  # type: ignore[arg-type]
    return Model(config, *nnx.split(abstract_model(config, dtype, attention_implementation(config, dtype))), store)


def unfinished(spec: StudySpec, model: Model, tasks: Sequence[TaskRequests]) -> PlanWork:
    """The work of those plans of the spec's shard that the store does not have finished on all tasks."""
    query = (
        "SELECT p.text, t.name, t.version, t.num_fewshot, t.bos, t.settings, c.documents FROM cells AS c "
        "JOIN models AS m ON m.id = c.model JOIN tasks AS t ON t.id = c.task JOIN plans AS p ON p.id = c.plan "
        "WHERE c.status != 'running' AND (m.fingerprint, m.dtype) = (?, ?)"
    )
    with reading(spec.store) as connection:
        rows = connection.execute(query, (model.manifest["fingerprint"], str(model.dtype)))
        covered = {tuple(key): documents for *key, documents in rows}

    def is_finished(plan: Plan) -> bool:
        keys = ((t.name, t.version, t.num_fewshot, t.bos, canonical_json(t.settings)) for t in tasks)
        return all(covered.get((str(plan), *key), 0) >= task.documents for key, task in zip(keys, tasks, strict=True))

    own = dict.fromkeys(variant.plan for variant in spec.shard_variants(model.num_layers))
    return plan_work([plan for plan in own if not is_finished(plan)])


def measured_rates(model: Model, batch: Batch) -> Rates:
    """Times one batch through two layers of random weights, of the model's sizes, on this machine's device."""
    small = random_model(with_layers(model.config, range(2)), dtype=str(model.dtype))  # type: ignore[arg-type]
    pair = Plan.of(0, 1).root
    plans = [Plan.of(Repeat(pair, count // 2)) for count in (FEW, MANY)]

    def seconds(plan: Plan) -> float:
        start = time.perf_counter()
        for _ in sweep_batch(small, batch, [plan]):
            pass
        return time.perf_counter() - start

    for plan in plans:
        seconds(plan)  # compiles
    few, many = (min(seconds(plan) for _ in range(2)) for plan in plans)
    layer = max(many - few, 0.0) / (MANY - FEW)
    return Rates(layer / batch.tokens.size, max(few - FEW * layer, 0.0) / max(batch.count, 1))


def _load(spec: StudySpec, model: Model) -> Sequence[TaskRequests]:
    from jaxpaint.tasks.harness import PlanLM
    from jaxpaint.tasks.requests import load_requests

    tasks = load_tasks(spec.tasks, data=parse_data_option(spec.data), num_fewshot=spec.num_fewshot)
    lm = PlanLM(model, model.full_plan, bos=spec.bos, kv=spec.kv)  # type: ignore[arg-type]
    return load_requests(lm, tasks, limit=spec.limit)


def _earlier_rates(store: Path) -> Rates | None:
    """What the runs in a store took per layer application, heads included; None where that says nothing."""
    if not store.exists():
        return None
    with reading(store) as connection:
        (models,) = connection.execute("SELECT count(*) FROM models").fetchone()
        executed, seconds = connection.execute("SELECT sum(executed), sum(seconds) FROM runs").fetchone()
    return Rates(seconds / executed, 0.0) if models == 1 and executed and seconds else None


def _shard_lines(index: int, shards: Sequence[PlanWork], whole: PlanWork) -> Iterator[str]:
    own, costs = shards[index - 1], [shard.distinct for shard in shards]
    yield _line("shard", f"{index} of {len(shards)}: {count(own.plans, 'plan')}, {own.distinct:,} applications a token")
    again = sum(costs) / whole.distinct - 1
    yield _line("", f"shards have {min(costs):,} to {max(costs):,}; together {again:.1%} more than in one")


def _task_text(task: TaskRequests) -> str:
    if task.is_generative:
        prompts = [asked.prompt for asked in task.prompts]
        tokens = sum(len(prompt.tokens) for prompt in prompts)
        most = max(prompt.max_new_tokens for prompt in prompts)
        prompt_tokens = f"{count(task.documents, 'document')}, {count(tokens, 'prompt token')}"
        return f"{task.name}: {prompt_tokens}, up to {most} new ones each; not counted below"
    tokens = sum(len(request.tokens) for request in task.requests)
    counts = count(task.documents, "document"), count(len(task.requests), "request"), count(tokens, "token")
    return f"{task.name}: {', '.join(counts)}"


def _memory_text(model: Model, plans: PlanWork, batch: Batch) -> str:
    vocabulary = model.config.vocab_size
    used = memory_needed(
        plans,
        parameter_bytes=_parameters(model) * model.dtype.itemsize,
        state_bytes=batch.tokens.size * model.config.hidden_size * model.dtype.itemsize,
        held_bytes=budgets().state_bytes,
        logits_bytes=4 * vocabulary_block(vocabulary) * head_chunk(vocabulary, batch.scored.size),
    )
    parts = (
        f"parameters {_bytes(used.parameters)}, hidden states {_bytes(used.held_states)}, logits {_bytes(used.logits)}"
    )
    return f"{_bytes(used.total)} ({parts}), and a layer's own"


def _parameters(model: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.state))


def _line(name: str, text: str) -> str:
    return f"{name:8}{text}"


def _instead(distinct: int, separate: int, what: str, otherwise: str) -> str:
    times = f" ({separate / distinct:.1f} x)" if distinct else ""
    return f"{_big(distinct)} {what}, {otherwise} {_big(separate)}{times}"


def _big(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else _size(number)


def _size(number: float) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(number)


def _bytes(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {minutes:.0f} min"
    return f"about {minutes / 60:.1f} h" if minutes < 48 * 60 else f"about {minutes / 1440:.1f} days"

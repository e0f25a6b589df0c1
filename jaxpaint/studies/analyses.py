"""A study's analyses of hidden states: the texts of a task, under every plan, kept in the results store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from jaxpaint.analysis.fits import Fitted
from jaxpaint.analysis.states import BY_NAME, MAX_STATES, analyse, analysis_rows, fit
from jaxpaint.base.progress import Start, no_bar
from jaxpaint.base.words import text_digest
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import units
from jaxpaint.results.store import Store
from jaxpaint.tasks.encoding import Bos, Encoding
from jaxpaint.tasks.load import build_instances

AnalysedTexts: TypeAlias = tuple[list[list[int]], dict[str, Any]]
"""Texts as tokens, and the settings that say which they are."""

PLANS_AT_ONCE = 32  # so many plans' analyses may be lost, and are computed with what they share


def analysis_texts(model: Model | Source, bos: Bos, tasks: Mapping[str, Any], samples: int) -> AnalysedTexts:
    """The first texts of the only one of `tasks`, all of them where there are no more than `samples`.

    A document's text is its context with what is to be predicted; where there are several to choose from, the first
    one's context, and where a text is to be written, what it is written after. It is cut to the model's length. An
    encoder's texts have its special tokens, unless `bos` is off.
    Raises UserError for documents that the task cannot read.
    """
    ((name, task),) = tasks["tasks"].items()
    build_instances(tasks, limit=samples)
    documents: dict[int, list[Any]] = {}
    for instance in task.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    texts = [
        "".join(first.args if len(others) == 0 and first.request_type != "generate_until" else first.args[:1])
        for first, *others in documents.values()
    ]
    settings = {"task": name, "samples": len(texts), "bos": bos, "texts": text_digest("\0".join(texts))}
    return as_tokens(model, bos, texts), settings


def as_tokens(model: Model | Source, bos: Bos, texts: Sequence[str]) -> list[list[int]]:
    """Whole texts as tokens, cut to the model's length. An encoder's have its special tokens, unless `bos` is off."""
    length = model.config.max_position_embeddings
    if not model.config.capabilities.decoder:
        how = {"add_special_tokens": bos != "off", "truncation": True, "max_length": length, "verbose": False}
        return [list(model.tokenizer.encode(text, **how)) for text in texts]
    encoding = Encoding.of(model, bos)
    return [encoding.tokens(text)[:length] for text in texts]


def run_analyses(
    run: Callable[[Sequence[Callable[[Model], Any]]], Iterable[tuple[int, Any]]],
    store: Store,
    model_id: int,
    plans: Mapping[int, Plan],
    names: Sequence[str],
    texts: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
    *,
    batch_tokens: int | None = None,
    is_local: bool = True,
    progress: Start = no_bar,
    tell: Callable[[str], None],
) -> int:
    """Computes and keeps the analyses `names` of plans (by their ids in the store) that the store lacks: of how many.

    `run` takes functions of the model, here (`is_local`) or elsewhere, and gives the number of each with what it
    returned. `progress` counts tokens under each plan. A plan that cannot be analysed is told of, and does not stop the
    others.
    """
    parts = list(_lacking(store, model_id, plans, names, settings, tell))
    if not parts:
        return 0
    tokens, count = sum(map(len, texts)), sum(len(part.plans) for part in parts)
    advance, finished = progress(tokens * count), 0

    def note() -> str:
        return f"{finished} of {count} plans analysed"

    done = (lambda amount: advance(amount, note())) if is_local else None
    every = dict.fromkeys(name for part in parts for name in part.names)
    # What probes learn of the full model is learned once, for all parts.
    ((_, fitted),) = run([partial(_fitted, texts, tuple(every), batch_tokens)]) if _need_fits(every) else ((0, {}),)
    jobs = [
        partial(_analysed, texts, tuple(part.plans.values()), part.names, batch_tokens, done, fitted) for part in parts
    ]
    for number, found in run(jobs):
        part = parts[number]
        for plan_id, rows in zip(part.plans, found, strict=True):
            for name, value in rows:
                store.add_analysis(model_id, plan_id, name, settings, value)
        finished += len(part.plans)
        advance(0 if is_local else tokens * len(part.plans), note())
    return count


def analysis_tokens(
    store: Store,
    model_id: int,
    plans: Mapping[int, Plan],
    names: Sequence[str],
    texts: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
) -> int:
    """Tokens, under each plan, of the analyses that the store lacks."""
    parts = _lacking(store, model_id, plans, names, settings, lambda line: None)
    return sum(map(len, texts)) * sum(len(part.plans) for part in parts)


@dataclass(frozen=True)
class _Part:
    """Plans by their ids that lack the same analyses, and which."""

    names: tuple[str, ...]
    plans: Mapping[int, Plan]


def _lacking(
    store: Store,
    model_id: int,
    plans: Mapping[int, Plan],
    names: Sequence[str],
    settings: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Iterator[_Part]:
    lacking: dict[tuple[str, ...], list[int]] = {}
    for plan_id, plan in plans.items():
        if sum(1 for _ in units(plan)) >= MAX_STATES:
            tell(f"plan {plan} has more than {MAX_STATES} hidden states and is not analysed")
        elif missing := tuple(name for name in names if store.analysis(model_id, plan_id, name, settings) is None):
            lacking.setdefault(missing, []).append(plan_id)
    for missing, ids in lacking.items():
        ids.sort(key=lambda plan_id: str(plans[plan_id]))  # those that begin alike together
        for start in range(0, len(ids), PLANS_AT_ONCE):
            yield _Part(missing, {plan_id: plans[plan_id] for plan_id in ids[start : start + PLANS_AT_ONCE]})


def _need_fits(names: Iterable[str]) -> bool:
    return any(BY_NAME[name].fits for name in names)


def _fitted(
    texts: Sequence[Sequence[int]], names: Sequence[str], batch_tokens: int | None, model: Model
) -> dict[str, Fitted]:
    return fit(model, texts, [BY_NAME[name] for name in names], batch_tokens=batch_tokens)


def _analysed(
    texts: Sequence[Sequence[int]],
    plans: Sequence[Plan],
    names: Sequence[str],
    batch_tokens: int | None,
    done: Callable[[int], None] | None,
    fitted: Mapping[str, Fitted],
    model: Model,
) -> list[list[tuple[str, Any]]]:
    """Of each plan, its rows of the store."""
    probes = [BY_NAME[name] for name in names]
    found = analyse(model, texts, plans, probes=probes, batch_tokens=batch_tokens, done=done, fitted=fitted)
    return [[(name, value) for name, _, value in analysis_rows(analysis, {}, probes)] for analysis in found]

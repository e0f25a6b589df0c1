"""A study's analyses of hidden states: the texts of a task, under every plan, kept in the results store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from jaxpaint.analysis.states import MAX_STATES, analyse, analysis_rows
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
    one's context. It is cut to the model's length. An encoder's texts have its special tokens, unless `bos` is off.
    Raises UserError for documents that the task cannot read.
    """
    ((name, task),) = tasks["tasks"].items()
    build_instances(tasks, limit=samples)
    documents: dict[int, list[Any]] = {}
    for instance in task.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    texts = [
        "".join(instances[0].args if len(instances) == 1 else instances[0].args[:1]) for instances in documents.values()
    ]
    settings = {"task": name, "samples": len(texts), "bos": bos, "texts": text_digest("\0".join(texts))}
    return _tokens(model, bos, texts), settings


def _tokens(model: Model | Source, bos: Bos, texts: Sequence[str]) -> list[list[int]]:
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
    tell: Callable[[str], None],
) -> int:
    """Computes and keeps the analyses `names` of plans (by their ids in the store) that the store lacks: how many.

    `run` takes functions of the model, here or elsewhere, and gives the number of each with what it returned.
    A plan that cannot be analysed is told of, and does not stop the others.
    """
    lacking = {}
    for plan_id, plan in plans.items():
        if sum(1 for _ in units(plan)) >= MAX_STATES:
            tell(f"plan {plan} has more than {MAX_STATES} hidden states and is not analysed")
        elif any(store.analysis(model_id, plan_id, name, settings) is None for name in names):
            lacking[plan_id] = plan
    ids = sorted(lacking, key=lambda plan_id: str(lacking[plan_id]))  # those that begin alike together
    parts = [ids[start : start + PLANS_AT_ONCE] for start in range(0, len(ids), PLANS_AT_ONCE)]
    jobs = [partial(_analysed, texts, [lacking[plan_id] for plan_id in part], batch_tokens) for part in parts]
    for number, found in run(jobs):
        for plan_id, analysis in zip(parts[number], found, strict=True):
            for name, _, value in analysis_rows(analysis, settings):
                if name in names:
                    store.add_analysis(model_id, plan_id, name, settings, value)
    return len(ids)


def _analysed(texts: Sequence[Sequence[int]], plans: Sequence[Plan], batch_tokens: int | None, model: Model) -> Any:
    return analyse(model, texts, plans, batch_tokens=batch_tokens)

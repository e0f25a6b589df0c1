"""Log-likelihoods and texts to metrics by lm-eval's own code, for many plans: what they share is computed once."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxpaint.results.metrics import MetricRow
from jaxpaint.tasks.calls import in_tasks
from jaxpaint.tasks.requests import TaskRequests
from jaxpaint.tasks.stderrs import bootstrap_in_process, perplexity_stderrs

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    # (metric, filter) -> its value for each document
    Raw: TypeAlias = Mapping[tuple[str, str], Mapping[int, Any]]

BOOTSTRAP_ITERS = 100_000
# These lm-eval resamples less often, as they take long.
SLOW_METRICS = frozenset({"bleu", "chrf", "chrf++", "ter"})
SLOW_ITERS = 100


@dataclass(frozen=True)
class TaskMetrics:
    """What one plan scored on one task; metrics without values, and no documents, where a score is not finite.

    `documents` are (document, metric, filter, value): what a metric is the aggregate of, where that is one number a
    document; of perplexities, the document's log-likelihood in nats.
    """

    metrics: tuple[MetricRow, ...]
    documents: tuple[tuple[int, str, str, float], ...]
    is_finite: bool


def task_metrics(
    requests: TaskRequests, loglikelihoods: np.ndarray, is_greedy: np.ndarray, *, bootstrap_iters: int = BOOTSTRAP_ITERS
) -> list[TaskMetrics]:
    """Each plan's metrics, from log-likelihoods (NaN where not finite) and greedy flags, both [plans, requests].

    They equal those of `jaxpaint.tasks.load.evaluate`, standard errors included; the resamples of perplexities are
    drawn once for all plans. A plan with a log-likelihood that is not finite has metrics without values or documents.
    Raises UserError where the task's own code fails on a document.
    """
    finite = np.isfinite(loglikelihoods).all(axis=1)
    responses = [
        _scored(requests, row if kept else np.zeros_like(row), greedy)
        for row, greedy, kept in zip(loglikelihoods, is_greedy, finite, strict=True)
    ]
    return _metrics(requests, responses, finite.tolist(), bootstrap_iters)


def text_metrics(
    requests: TaskRequests, texts: Sequence[Sequence[str | None]], *, bootstrap_iters: int = BOOTSTRAP_ITERS
) -> list[TaskMetrics]:
    """As `task_metrics`, of what each plan wrote after each prompt; None where its logits were not finite."""
    finite = [None not in row for row in texts]
    return _metrics(requests, [[text or "" for text in row] for row in texts], finite, bootstrap_iters)


def _metrics(
    requests: TaskRequests, responses: Sequence[Sequence[Any]], finite: Sequence[bool], bootstrap_iters: int
) -> list[TaskMetrics]:
    """`responses` of each plan are those to each of the task's instances."""
    with in_tasks(), bootstrap_in_process():
        task = _quick_copy(requests)
        raw = [_per_document(requests, task, each) for each in responses]
        stderrs = _perplexity_stderrs(task, raw, bootstrap_iters if any(finite) else 0)
        return [
            _aggregated(task, each, stderr, bootstrap_iters) if kept else _without_values(task, each)
            for each, stderr, kept in zip(raw, stderrs, finite, strict=True)
        ]


def _quick_copy(requests: TaskRequests) -> Task:
    """The task with its requests, which renders a document's text, choices and answer once, not for every plan."""

    def remember(method: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[int, Any] = {}

        def remembered(document: Any, *how: Any) -> Any:
            if how:
                return method(document, *how)
            if id(document) not in known:  # the instances keep their documents alive, so no other one gets the id
                known[id(document)] = method(document)
            return known[id(document)]

        return remembered

    task = copy.copy(requests.task)
    for name in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        if hasattr(task, name):
            setattr(task, name, remember(getattr(task, name)))
    # Another evaluation of the task replaces its own list.
    task._instances = list(requests.instances)
    return task


def _scored(requests: TaskRequests, loglikelihoods: np.ndarray, is_greedy: np.ndarray) -> list[Any]:
    """Each instance's response as lm-eval's models give it, of its requests' scores."""
    owners = np.asarray(requests.owners)
    values = np.zeros(len(requests.instances))
    np.add.at(values, owners, loglikelihoods)
    greedy = np.ones(len(requests.instances), bool)
    np.logical_and.at(greedy, owners, is_greedy)
    return [
        value if instance.request_type == "loglikelihood_rolling" else (value, flag)
        for instance, value, flag in zip(requests.instances, values.tolist(), greedy.tolist(), strict=True)
    ]


def _per_document(requests: TaskRequests, task: Task, responses: Sequence[Any]) -> Raw:
    """As lm_eval.evaluator.evaluate: responses, filters, then `process_results` for each filter and document."""
    of_document: dict[int, list[Instance]] = defaultdict(list)
    for instance, response in zip(requests.instances, responses, strict=True):
        instance.resps = [response] * (instance.repeats or 1)
        instance.filtered_resps = {}
        of_document[instance.doc_id].append(instance)
    task.apply_filters()
    raw: dict[tuple[str, str], dict[int, Any]] = defaultdict(dict)
    for name in requests.instances[0].filtered_resps:
        for document, members in of_document.items():
            members.sort(key=lambda instance: instance.idx)
            filtered = [instance.filtered_resps[name] for instance in members]
            for metric, value in task.process_results(members[0].doc, filtered).items():
                raw[metric, name][document] = value
    return raw


def _aggregation(task: Task, metric: str) -> Callable[[Sequence[Any]], Any]:
    from lm_eval.api.metrics import mean

    return task.aggregation().get(metric, mean)


def _perplexity_stderrs(task: Task, raw: Sequence[Raw], iters: int) -> list[dict[tuple[str, str], float]]:
    """Of each plan and each metric that is a perplexity over the same documents in every plan."""
    from lm_eval.api.metrics import perplexity

    found: list[dict[tuple[str, str], float]] = [{} for _ in raw]
    for key in raw[0] if raw and iters else ():
        documents = raw[0][key].keys()
        if _aggregation(task, key[0]) is not perplexity or len(documents) < 2:
            continue
        if all(each.get(key, {}).keys() == documents for each in raw):
            values = np.array([list(each[key].values()) for each in raw], np.float64)
            for stderrs, stderr in zip(found, perplexity_stderrs(values, iters), strict=True):
                stderrs[key] = float(stderr)
    return found


def _aggregated(task: Task, raw: Raw, known: Mapping[tuple[str, str], float], iters: int) -> TaskMetrics:
    """As lm_eval.evaluator_utils; `known` are standard errors that are there already."""
    from lm_eval.api.metrics import bits_per_byte, stderr_for_metric, weighted_perplexity

    metrics, documents = [], []
    for (metric, name), by_document in raw.items():
        aggregation, values = _aggregation(task, metric), list(by_document.values())
        stderr = known.get((metric, name))
        if stderr is None and iters and len(values) > 1:
            limit = min(iters, SLOW_ITERS) if metric in SLOW_METRICS else iters
            function = stderr_for_metric(metric=aggregation, bootstrap_iters=limit)
            stderr = _number(function, values) if function else None
        metrics.append(
            MetricRow(metric, name, _number(aggregation, values), stderr, task.higher_is_better().get(metric))
        )
        weighted = aggregation in (weighted_perplexity, bits_per_byte)
        documents += [
            (document, metric, name, float(value[0] if weighted else value))
            for document, value in by_document.items()
            if weighted or isinstance(value, int | float | np.number | np.bool_)
        ]
    return TaskMetrics(tuple(metrics), tuple(documents), True)


def _number(function: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> float:
    try:
        return float(function(values))
    except OverflowError:  # the exponential of a hopeless plan's perplexity
        return math.inf


def _without_values(task: Task, raw: Raw) -> TaskMetrics:
    better = task.higher_is_better()
    rows = (MetricRow(metric, name, None, None, better.get(metric)) for metric, name in raw)
    return TaskMetrics(tuple(rows), (), False)

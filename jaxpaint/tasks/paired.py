"""lm-eval's results of two plans on the same documents, less each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxpaint.results.paired import paired_difference

Metric: TypeAlias = tuple[str, str]
"""A metric's name, and the filter that its answers went through."""


def differences(results: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`results` less `first`, both with samples: by task as lm-eval has results, `acc,none` and `acc_stderr,none`.

    The standard error is that of the mean difference of a document, "N/A" where a score is no mean of documents.
    """
    found: dict[str, dict[str, Any]] = {}
    for task, own in results.get("results", {}).items():
        others = metric_values(first.get("results", {}).get(task, {}))
        documents, of_first = (_by_document(each, task) for each in (results, first))
        rows: dict[str, Any] = {}
        for (metric, name), value in metric_values(own).items():
            if (metric, name) not in others:
                continue
            mine, theirs = documents.get((metric, name), {}), of_first.get((metric, name), {})
            shared = [document for document in mine if document in theirs]
            pairs = [mine[document] for document in shared], [theirs[document] for document in shared]
            difference, stderr = paired_difference(value, others[metric, name], *pairs)
            rows |= {f"{metric},{name}": difference, f"{metric}_stderr,{name}": "N/A" if stderr is None else stderr}
        if rows:
            found[task] = rows
    return found


def metric_values(results: Mapping[str, Any]) -> dict[Metric, float]:
    """Of one task's results the numbers, without their standard errors."""
    found: dict[Metric, float] = {}
    for key, value in results.items():
        metric, comma, name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            found[metric, name] = float(value)
    return found


def _by_document(results: Mapping[str, Any], task: str) -> dict[Metric, dict[int, float]]:
    """Of each metric the documents' values, where these are numbers."""
    found: dict[Metric, dict[int, float]] = {}
    for sample in results.get("samples", {}).get(task, ()):
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                found.setdefault((metric, sample["filter"]), {})[sample["doc_id"]] = float(sample[metric])
    return found

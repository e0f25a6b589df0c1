"""lm-eval's results of two plans on the same documents, less each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from jaxpaint.results.groups import Group
from jaxpaint.results.paired import Member, group_difference

Metric: TypeAlias = tuple[str, str]
"""A metric's name, and the filter that its answers went through."""
Documents: TypeAlias = Mapping[Metric, Mapping[int, float]]
"""A task's values, by metric and document."""


def differences(
    results: Mapping[str, Any], first: Mapping[str, Any], groups: Sequence[Group] = ()
) -> dict[str, dict[str, Any]]:
    """`results` less `first`, both with samples: by task as lm-eval has results, `acc,none` and `acc_stderr,none`.

    The standard error is that of the mean difference of a document, "N/A" where a score is no mean of documents;
    `groups` of the tasks have theirs from their members' documents (`jaxpaint.results.paired.group_difference`).
    """
    found: dict[str, dict[str, Any]] = {}
    of_groups = {group.name: group for group in groups}
    for task, own in results.get("results", {}).items():
        others = metric_values(first.get("results", {}).get(task, {}))
        group = of_groups.get(task)
        times = Counter([task] if group is None else group.members)
        members = [(_by_document(results, name), _by_document(first, name), many) for name, many in times.items()]
        rows: dict[str, Any] = {}
        for (metric, name), value in metric_values(own).items():
            if (metric, name) not in others:
                continue
            pairs = list(_pairs(members, (metric, name)))
            by_size = group is None or group.by_size(metric)
            difference, stderr = group_difference(value, others[metric, name], pairs, by_size=by_size)
            rows |= {f"{metric},{name}": difference, f"{metric}_stderr,{name}": "N/A" if stderr is None else stderr}
        if rows:
            found[task] = rows
    return found


def _pairs(members: Sequence[tuple[Documents, Documents, int]], metric: Metric) -> Iterator[Member]:
    """Of the tasks that have a metric the documents that both were asked."""
    for own, of_first, times in members:
        mine, theirs = own.get(metric, {}), of_first.get(metric, {})
        if shared := [document for document in mine if document in theirs]:
            yield Member([mine[each] for each in shared], [theirs[each] for each in shared], times)


def metric_values(results: Mapping[str, Any]) -> dict[Metric, float]:
    """Of one task's results the numbers, without their standard errors."""
    found: dict[Metric, float] = {}
    for key, value in results.items():
        metric, comma, name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            found[metric, name] = float(value)
    return found


def _by_document(results: Mapping[str, Any], task: str) -> Documents:
    """Of each metric the documents' values, where these are numbers."""
    found: dict[Metric, dict[int, float]] = {}
    for sample in results.get("samples", {}).get(task, ()):
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                found.setdefault((metric, sample["filter"]), {})[sample["doc_id"]] = float(sample[metric])
    return found

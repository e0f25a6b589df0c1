"""A task's main metric under plans of a model, with its documents' values, so that the same documents compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.engine.score import score_plans
from jaxpaint.plans.plan import Plan
from jaxpaint.results.kinds import preferred
from jaxpaint.results.metrics import MetricRow
from jaxpaint.tasks.metrics import task_metrics
from jaxpaint.tasks.requests import TaskRequests


@dataclass(frozen=True, eq=False)
class MainMetric:
    """What one plan scored; without a value where a score is not finite.

    `documents` are what the value is the mean of; None where it is no mean of numbers, as a perplexity is not.
    """

    name: str
    value: float | None
    stderr: float | None
    documents: Float[np.ndarray, " documents"] | None


def main_metrics(
    model: Model,
    requests: TaskRequests,
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[MainMetric]:
    """Each plan's main metric of one task, by lm-eval's own code; arguments and errors as `score_plans`.

    Raises UserError as `require_scored`.
    """
    require_scored(requests)
    found = score_plans(model, requests.requests, plans, batch_tokens=batch_tokens, progress=progress)
    metrics = []
    for each in task_metrics(requests, found.loglikelihoods, found.is_greedy):
        rows = {row.filter: row for row in each.metrics if row.metric == requests.main_metric}
        row = rows[preferred(rows)]
        values = np.array([value for _, metric, name, value in each.documents if (metric, name) == _name(row)])
        is_mean = row.value is not None and len(values) and np.isclose(values.mean(), row.value)
        metrics.append(MainMetric(row.metric, row.value, row.stderr, values if is_mean else None))
    return metrics


def require_scored(requests: TaskRequests) -> None:
    """Raises UserError for a task that writes its answers, which have no log-likelihood."""
    if requests.is_generative:
        raise UserError(
            f"task {requests.name} has the model write its answers; give tasks that choose or complete, such as "
            "arc_easy or lambada_openai"
        )


def _name(row: MetricRow) -> tuple[str, str]:
    return row.metric, row.filter

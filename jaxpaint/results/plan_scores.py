"""What a results store knows of one plan of a model: its main scores, beside the full model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.results.damage import reading


@dataclass(frozen=True)
class PlanScore:
    """The main metric of a task under a plan, and under the full model; None is not known."""

    task: str
    benchmark: str
    metric: str
    value: float
    stderr: float | None
    documents: int
    full: float | None
    full_stderr: float | None


_QUERY = """
    SELECT r.task, r.metric, r.value, r.stderr, r.documents, f.value, f.stderr
    FROM results r LEFT JOIN results f ON f.fingerprint = r.fingerprint AND f.dtype = r.dtype AND f.task = r.task
        AND f.num_fewshot = r.num_fewshot AND f.bos = r.bos AND f.settings = r.settings AND f.metric = r.metric
        AND f.filter = r.filter AND f.plan = :full
    WHERE r.fingerprint = :fingerprint AND r.plan = :plan AND r.metric = r.main_metric AND r.value IS NOT NULL
    GROUP BY r.cell ORDER BY r.cell
"""


def plan_scores(store: Path, fingerprint: str, plan: str, full: str) -> tuple[PlanScore, ...]:
    """Of the model of this fingerprint, by plans' canonical texts. Raises UserError where the store has none."""
    with reading(store) as connection:
        rows = connection.execute(_QUERY, {"fingerprint": fingerprint, "plan": plan, "full": full}).fetchall()
    if not rows:
        raise UserError(
            f"{store} has no score of the plan {plan} for this model; score it with `jaxpaint study --plans-file` first"
        )
    return tuple(
        PlanScore(task, task, metric, value, stderr, documents, other, its_error)
        for task, metric, value, stderr, documents, other, its_error in rows
    )

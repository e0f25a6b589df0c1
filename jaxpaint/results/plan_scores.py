"""What a results store knows of one plan of a model: its main scores, beside the full model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.results.damage import reading
from jaxpaint.results.kinds import preferred


@dataclass(frozen=True)
class PlanScore:
    """The main metric of a task under a plan, and under the full model; None is not known."""

    task: str
    metric: str
    value: float
    stderr: float | None
    documents: int
    full: float | None
    full_stderr: float | None


_QUERY = """
    SELECT r.cell, r.filter, r.task, r.metric, r.value, r.stderr, r.documents, f.value, f.stderr
    FROM results r LEFT JOIN results f ON f.fingerprint = r.fingerprint AND f.dtype = r.dtype AND f.task = r.task
        AND f.num_fewshot = r.num_fewshot AND f.bos = r.bos AND f.settings = r.settings AND f.metric = r.metric
        AND f.filter = r.filter AND f.documents = r.documents AND f.plan = :full
    WHERE r.fingerprint = :fingerprint AND r.plan = :plan AND r.metric = r.main_metric AND r.value IS NOT NULL
    ORDER BY r.cell, r.filter
"""


def plan_scores(store: Path, fingerprint: str, plan: str, full: str) -> tuple[PlanScore, ...]:
    """Of the model of this fingerprint, by plans' canonical texts: of each task's filters that which counts, beside the
    full model's on as many documents. Raises UserError where the store has none.
    """
    with reading(store) as connection:
        rows = connection.execute(_QUERY, {"fingerprint": fingerprint, "plan": plan, "full": full}).fetchall()
    if not rows:
        raise UserError(
            f"{store} has no score of the plan {plan} for this model; score it with `jaxpaint study --plans-file` first"
        )
    by_cell: dict[int, dict[str, PlanScore]] = {}
    for cell, name, *score in rows:
        by_cell.setdefault(cell, {}).setdefault(name, PlanScore(*score))
    return tuple(found[preferred(found)] for found in by_cell.values())

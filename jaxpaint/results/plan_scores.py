"""What a results store knows of one plan of a model: its main scores, beside the full model's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.results.damage import reading
from jaxpaint.results.group_scores import all_scores
from jaxpaint.results.kinds import preferred


@dataclass(frozen=True)
class PlanScore:
    """The main metric of a task, or a group of tasks, under a plan and under the full model; None is not known."""

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
    full model's on as many documents; groups before tasks. Raises UserError where the store has none.
    """
    with reading(store) as connection:
        rows = connection.execute(_QUERY, {"fingerprint": fingerprint, "plan": plan, "full": full}).fetchall()
        of_groups = tuple(_of_groups(connection, fingerprint, plan, full))
    if not rows:
        raise UserError(
            f"{store} has no score of the plan {plan} for this model; score it with `jaxpaint study --plans-file` first"
        )
    by_cell: dict[int, dict[str, PlanScore]] = {}
    for cell, name, *score in rows:
        by_cell.setdefault(cell, {}).setdefault(name, PlanScore(*score))
    return (*of_groups, *(found[preferred(found)] for found in by_cell.values()))


def _of_groups(connection: sqlite3.Connection, fingerprint: str, plan: str, full: str) -> Iterator[PlanScore]:
    ids = dict(connection.execute("SELECT text, id FROM plans WHERE text IN (?, ?)", (plan, full)))
    for (model,) in connection.execute("SELECT id FROM models WHERE fingerprint = ? ORDER BY id", (fingerprint,)):
        for scores in all_scores(connection, model):
            cells = {cell.plan: cell for cell in scores.cells}
            own, whole = (cells.get(ids.get(text, 0)) for text in (plan, full))
            row = None if own is None else scores.main(own)
            if own is None or own.documents is None or row is None or row.value is None:
                continue
            other = scores.main(whole) if whole is not None and whole.documents == own.documents else None
            of_full = (None, None) if other is None else (other.value, other.stderr)
            yield PlanScore(scores.name, row.metric, row.value, row.stderr, own.documents, *of_full)

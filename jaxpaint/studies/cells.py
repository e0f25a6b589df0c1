"""A study's model, plans and tasks with their ids in the results store; what is missing, and finishing what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.engine.packing import Request
from jaxpaint.models.manifest import identity
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.store import PlanRow, Store
from jaxpaint.tasks import evaluation
from jaxpaint.tasks.metrics import task_metrics, text_metrics
from jaxpaint.tasks.requests import TaskRequests

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source
    from jaxpaint.tasks.encoding import Asked

CELLS_AT_ONCE = 128  # whose metrics are computed together: what they share once, within memory


@dataclass(frozen=True, eq=False)
class Study:
    """Distinct plans, tasks, and all tasks' requests one after the other: `request_ids` their ids, `task_of` whose."""

    model_id: int
    plans: tuple[Plan, ...]
    plan_ids: tuple[int, ...]
    labels: tuple[str, ...]
    tasks: tuple[TaskRequests, ...]
    task_ids: tuple[int, ...]
    cells: Int[np.ndarray, "tasks plans"]
    request_ids: Int[np.ndarray, " requests"]
    task_of: Int[np.ndarray, " requests"]
    environment: Mapping[str, Any] | None = None  # of other machines that compute it
    finishes: bool = True  # whether cells get metrics; without, scores are wanted whatever their cells have

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """Encoded on first use: a study that misses nothing needs none."""
        return tuple(chain.from_iterable(task.requests for task in self.tasks))

    @cached_property
    def prompts(self) -> tuple[Asked, ...]:
        """As `requests`, where the tasks are generative."""
        return tuple(chain.from_iterable(task.prompts for task in self.tasks))

    def of_plan(self, number: int) -> Study:
        """The same of one plan alone."""
        return replace(
            self,
            plans=(self.plans[number],),
            plan_ids=(self.plan_ids[number],),
            labels=(self.labels[number],),
            cells=self.cells[:, [number]],
        )

    def unfinished(self, store: Store) -> Bool[np.ndarray, "tasks plans"]:
        """The cells without metrics over all documents that this study wants."""
        found = np.ones(self.cells.shape, bool)
        for task, (requests, cells) in enumerate(zip(self.tasks, self.cells, strict=True)):
            found[task] = [
                state.status == "running" or (state.documents or 0) < requests.documents
                for state in store.states(cells.tolist())
            ]
        return found

    def missing(
        self, store: Store, plans: Int[np.ndarray, " P"], requests: Int[np.ndarray, " R"]
    ) -> Bool[np.ndarray, "P R"]:
        """Which of the scores are not in the store."""
        found = np.zeros((len(plans), len(requests)), bool)
        for task, cells in enumerate(self.cells):
            own = np.flatnonzero(self.task_of[requests] == task)
            if own.size and plans.size:
                ids = self.request_ids[requests[own]].tolist()
                found[:, own] = store.missing(cells[plans].tolist(), ids)
        return found

    def all_missing(self, store: Store) -> Bool[np.ndarray, "plans requests"]:
        """Which of all scores are not in the store, where a cell is not finished."""
        if not self.finishes:
            return self.missing(store, np.arange(len(self.plans)), np.arange(len(self.request_ids)))
        found = np.zeros((len(self.plans), len(self.request_ids)), bool)
        for task, unfinished in enumerate(self.unfinished(store)):
            plans, own = np.flatnonzero(unfinished), np.flatnonzero(self.task_of == task)
            found[np.ix_(plans, own)] = self.missing(store, plans, own)
        return found


def register(
    store: Store,
    model: Model | Source,
    variants: Sequence[Variant],
    tasks: Sequence[Any],
    environment: Mapping[str, Any] | None = None,
) -> Study:
    """Writes into the store what the study is about; `tasks` are `TaskRequests`, or have what is asked of these here.

    Raises UserError where the store knows other text for a request, or another plan for a label.
    """
    model_id = store.model(**identity(model.manifest), dtype=model.computed_in, num_layers=model.num_layers)
    ids = store.plans([_plan_row(variant) for variant in variants])
    first: dict[int, Variant] = {}
    for plan_id, variant in zip(ids, variants, strict=True):
        first.setdefault(plan_id, variant)
    task_ids = [
        store.task(
            name=task.name,
            version=task.version,
            num_fewshot=task.num_fewshot,
            bos=task.bos,
            settings=task.settings,
            chance=task.chance,
            main_metric=task.main_metric,
        )
        for task in tasks
    ]
    request_ids = [store.requests(task_id, task.identities) for task_id, task in zip(task_ids, tasks, strict=True)]
    for task_id, task in zip(task_ids, tasks, strict=True):
        if task.keeps_texts:
            _keep_texts(store, task_id, task)
    cells = [store.cells(model_id, task_id, list(first)) for task_id in task_ids]
    return Study(
        model_id=model_id,
        plans=tuple(variant.plan for variant in first.values()),
        plan_ids=tuple(first),
        labels=tuple(variant.label for variant in first.values()),
        tasks=tuple(tasks),
        task_ids=tuple(task_ids),
        cells=np.array(cells, np.int64).reshape(len(tasks), len(first)),
        request_ids=np.array(list(chain.from_iterable(request_ids)), np.int64),
        task_of=np.repeat(np.arange(len(tasks)), [len(each) for each in request_ids]),
        environment=environment,
    )


def _keep_texts(store: Store, task_id: int, task: TaskRequests) -> None:
    """What people see of the documents, where the store lacks it: a study of before had none."""
    documents = {document for document, _, _ in task.identities}
    if lacking := store.documents_without_text(task_id, documents):
        store.add_document_texts(task_id, task.document_texts(lacking))


class Finishing:
    """Finishes a study's cells when nothing of them is missing any more; `standing` is how far it is, in a line."""

    def __init__(self, study: Study, store: Store) -> None:
        self.standing = self._best = ""
        self._study, self._store = study, store

    def of_all_but(self, missing: Bool[np.ndarray, "plans requests"]) -> None:
        """Computes and stores the metrics of unfinished cells that have all of their results.

        Raises UserError where the task's own code fails on a document, or the store cannot be written.
        """
        study, store = self._study, self._store
        if not study.finishes:
            return
        unfinished = study.unfinished(store)
        for task in range(len(study.tasks)):
            complete = ~missing[:, study.task_of == task].any(axis=1)
            plans = np.flatnonzero(unfinished[task] & complete)
            if plans.size:
                _finish(study, store, task, plans)
                unfinished[task, plans] = False
                self._best = _best_plan(study, store, task) or self._best
        done = f"{(~unfinished).sum()} of {unfinished.size} results"
        self.standing = f"{done}, {self._best}" if self._best else done


def _finish(study: Study, store: Store, task: int, plans: Int[np.ndarray, " P"]) -> None:
    requests = study.tasks[task]
    ids = study.request_ids[study.task_of == task].tolist()
    for start in range(0, len(plans), CELLS_AT_ONCE):
        cells = study.cells[task, plans[start : start + CELLS_AT_ONCE]].tolist()
        if requests.is_generative:
            found = text_metrics(requests, [store.texts(cell, ids) for cell in cells])
        else:
            scores = zip(*(store.scores(cell, ids) for cell in cells), strict=True)
            found = task_metrics(requests, *map(np.array, scores))
        for cell, metrics in zip(cells, found, strict=True):
            store.finish(
                cell,
                documents=requests.documents,
                status="finished" if metrics.is_finite else "not finite",
                metrics=metrics.metrics,
                document_scores=metrics.documents,
                environment=study.environment or evaluation.environment(),
            )


def _best_plan(study: Study, store: Store, task: int) -> str:
    """The study's plan with the best main metric among a task's finished cells, in words; "" while there is none."""
    requests = study.tasks[task]
    by_cell = dict(zip(study.cells[task].tolist(), study.labels, strict=True))
    found = [
        (-value if better == 0 else value, cell, value)
        for cell, value, better in store.finished(study.model_id, study.task_ids[task], requests.main_metric)
        if by_cell.get(cell, "full") != "full"
    ]
    if not found:
        return ""
    _, cell, value = max(found)
    return f"best on {requests.name}: {by_cell[cell]}, {requests.main_metric} {value:.4g}"


def _plan_row(variant: Variant) -> PlanRow:
    own = ("strategy", "num_layers", "label", "start", "seed", "iterations", "times", "layer", "affected")
    plan = variant.plan
    return PlanRow(str(plan), plan.cost, plan.depth, **{name: getattr(variant, name) for name in own})

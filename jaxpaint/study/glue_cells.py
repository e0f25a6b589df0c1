"""A model's plans on a GLUE task in the results store: which lack results, and what is kept of those computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxpaint.base.words import digest
from jaxpaint.engine.model import Model, require_pooler
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.kinds import MAJORITY
from jaxpaint.results.store import MetricRow, Store
from jaxpaint.study.cells import model_id, plan_row
from jaxpaint.tasks.glue import SCORE, Examples, GlueTask, task_metrics

VERSION = "1"  # of what a score means here: another one is another task in a store
RESAMPLES = 100


@dataclass(frozen=True, eq=False)
class GlueCells:
    """Distinct plans by the ids of their cells, the labels of the examples they are scored on, the class to beat.

    `majority` is the most frequent class among the training labels, None for a regression.
    """

    task: GlueTask
    labels: np.ndarray
    majority: int | None
    plans: Mapping[int, Plan]

    def lacking(self, store: Store) -> dict[int, Plan]:
        """Those without results over all examples."""
        states = zip(self.plans.items(), store.states(list(self.plans)), strict=True)
        return {
            cell: plan
            for (cell, plan), state in states
            if state.status == "running" or (state.documents or 0) < len(self.labels)
        }

    def finish(
        self,
        store: Store,
        cell: int,
        logits: Float[np.ndarray, "seeds examples labels"],
        *,
        environment: Mapping[str, Any],
    ) -> None:
        """Keeps the metrics of classifiers that differ by their seed alone.

        Where any logit is not finite the cell is "not finite", and has no metrics.

        Raises:
            UserError: the store cannot be written.
        """
        finite = bool(np.isfinite(logits).all())
        predictions = logits[..., 0] if self.task.is_regression else logits.argmax(axis=-1)
        store.finish(
            cell,
            documents=len(self.labels),
            status="finished" if finite else "not finite",
            metrics=self._metrics(predictions) if finite else [],
            document_scores=self._document_scores(predictions) if finite else [],
            environment=environment,
        )

    def _metrics(self, predictions: np.ndarray) -> list[MetricRow]:
        """Means over seeds [seeds, examples], and their standard errors over resampled examples."""
        names = [*self.task.metrics, SCORE]

        def means(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> list[float]:
            each = [task_metrics(self.task, of_seed, labels, counts) for of_seed in predictions]
            return [float(np.mean([found[name] for found in each])) for name in names]

        values = means(predictions, self.labels)
        errors = np.std([means(*drawn) for drawn in self._resampled(predictions)], axis=0, ddof=1)
        if len(self.labels) == 1:
            errors = np.full(len(names), np.nan)  # nothing can be told of others
        rows = [
            MetricRow(name, "none", value, float(error), True)
            for name, value, error in zip(names, values, errors, strict=True)
        ]
        return [*rows, MetricRow(MAJORITY, "none", self._majority_score(), None, True)]

    def _resampled(self, predictions: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Predictions [seeds, examples] and labels of examples drawn anew, and how often each was.

        Examples with one label and the same predictions are drawn as one, so that many cost no more than few.
        """
        random, size = np.random.default_rng(0), len(self.labels)
        if self.task.is_regression:
            for _ in range(RESAMPLES):
                chosen = random.integers(size, size=size)
                yield predictions[:, chosen], self.labels[chosen]
            return
        kinds, counts = np.unique(np.vstack([predictions, self.labels]), axis=1, return_counts=True)
        for drawn in random.multinomial(size, counts / size, size=RESAMPLES):
            yield kinds[:-1], kinds[-1], drawn

    def _majority_score(self) -> float:
        """The score of the same answer to every example; the correlations of a regression are 0."""
        if self.majority is None:
            return 0.0
        return task_metrics(self.task, np.full(len(self.labels), self.majority), self.labels)[SCORE]

    def _document_scores(self, predictions: np.ndarray) -> list[tuple[int, str, str, float | None]]:
        """Whether each example's class is right, averaged over seeds; nothing for a regression."""
        if self.task.is_regression:
            return []
        right = (predictions == self.labels).mean(axis=0)
        return [(document, "accuracy", "none", float(value)) for document, value in enumerate(right)]


def register(
    store: Store,
    model: Model,
    task: GlueTask,
    train: Examples,
    validation: Examples,
    variants: Sequence[Variant],
    settings: Mapping[str, Any],
) -> GlueCells:
    """Writes into the store what is to be scored: another model, or other `settings` or training examples, are others.

    Raises:
        UserError: a model without a pooler, or a store that cannot be written or knows other validation examples.
    """
    require_pooler(model)
    ids = store.plans([plan_row(variant) for variant in variants])
    plans = {plan_id: variant.plan for plan_id, variant in zip(ids, variants, strict=True)}
    task_id = store.task(
        name=task.name,
        version=VERSION,
        num_fewshot=0,
        bos="auto",
        settings={"trained_on": digest(*train.texts, train.labels.tolist()), **settings},
        chance=None,  # of the examples scored, so a metric of each cell: MAJORITY
        main_metric=SCORE,
    )
    store.requests(
        task_id,
        [
            (number, 0, digest(*texts, label))
            for number, (texts, label) in enumerate(zip(validation.texts, validation.labels.tolist(), strict=True))
        ],
    )
    cells = store.cells(model_id(store, model), task_id, list(plans))
    majority = None if task.is_regression else int(np.bincount(train.labels).argmax())
    return GlueCells(task, validation.labels, majority, dict(zip(cells, plans.values(), strict=True)))

"""A GLUE task in the results store, and what is kept of its classifiers' logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxpaint.base.words import digest
from jaxpaint.results.document_texts import DocumentText
from jaxpaint.results.kinds import MAJORITY, TRAINED_ON
from jaxpaint.results.store import MetricRow, Store
from jaxpaint.tasks.evaluation import environment
from jaxpaint.tasks.glue import SCORE, Examples, GlueTask, task_metrics

VERSION = "1"  # of what a score means here: another one is another task in a store
RESAMPLES = 100


@dataclass(frozen=True, eq=False)
class GlueRequests:
    """A task's examples as a results store knows them, like those of `jaxpaint.tasks.requests.TaskRequests`.

    `how` is how a classifier is trained: other settings or training examples are another task.
    """

    task: GlueTask
    train: Examples
    validation: Examples
    how: Mapping[str, Any] = field(default_factory=dict)
    version: str = VERSION
    num_fewshot: int = 0
    bos: str = "auto"
    chance: float | None = None  # of the examples scored, so a metric of each cell: MAJORITY
    main_metric: str = SCORE
    keeps_texts: bool = True

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def documents(self) -> int:
        return len(self.validation)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What changes scores besides the model and the name."""
        return {TRAINED_ON: digest(*self.train.texts, self.train.labels.tolist()), **self.how}

    @property
    def identities(self) -> tuple[tuple[int, int, str], ...]:
        """The numbers and hashes of the examples that are scored."""
        examples = zip(self.validation.texts, self.validation.labels.tolist(), strict=True)
        return tuple((number, 0, digest(*texts, label)) for number, (texts, label) in enumerate(examples))

    def document_texts(self, documents: Collection[int]) -> list[tuple[int, DocumentText]]:
        """What people see of some of the examples: their texts, and the right class or number."""
        texts, labels = self.validation.texts, self.validation.labels.tolist()
        answers = {number: str(labels[number]) for number in documents}
        if classes := self.task.classes:
            answers = {number: classes[labels[number]] for number in documents}
        return [(number, DocumentText("\n".join(texts[number]), answers[number])) for number in documents]


def finish(store: Store, cell: int, requests: GlueRequests, logits: Float[np.ndarray, "seeds examples labels"]) -> None:
    """Keeps the metrics of classifiers that differ by their seed alone.

    Where any logit is not finite the cell is "not finite", and has no metrics.
    """
    task, labels = requests.task, requests.validation.labels
    finite = bool(np.isfinite(logits).all())
    predictions = logits[..., 0] if task.is_regression else logits.argmax(axis=-1)
    metrics: list[MetricRow] = []
    document_scores: list[tuple[int, str, str, float | None]] = []
    if finite:
        beaten = MetricRow(MAJORITY, "none", _majority_score(requests), None, True)
        metrics = [*_metrics(task, predictions, labels), beaten]
        if not task.is_regression:  # whether each example's class is right, averaged over seeds
            right = (predictions == labels).mean(axis=0).tolist()
            # Where the score is the accuracy, plans are compared example by example.
            names = ("accuracy", SCORE) if task.metrics == ("accuracy",) else ("accuracy",)
            document_scores = [(example, name, "none", value) for name in names for example, value in enumerate(right)]
    store.finish(
        cell,
        documents=len(labels),
        status="finished" if finite else "not finite",
        metrics=metrics,
        document_scores=document_scores,
        environment=environment(),
    )


def _metrics(task: GlueTask, predictions: np.ndarray, labels: np.ndarray) -> list[MetricRow]:
    """Means over seeds [seeds, examples], and their standard errors over resampled examples."""
    names = [*task.metrics, SCORE]

    def means(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> list[float]:
        each = [task_metrics(task, of_seed, labels, counts) for of_seed in predictions]
        return [float(np.mean([found[name] for found in each])) for name in names]

    values = means(predictions, labels)
    errors = np.std([means(*drawn) for drawn in _resampled(task, predictions, labels)], axis=0, ddof=1)
    if len(labels) == 1:
        errors = np.full(len(names), np.nan)  # nothing can be told of others
    return [
        MetricRow(name, "none", value, float(error), True)
        for name, value, error in zip(names, values, errors, strict=True)
    ]


def _resampled(task: GlueTask, predictions: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Predictions [seeds, examples] and labels of examples drawn anew, and how often each was.

    Examples with one label and the same predictions are drawn as one, so that many cost no more than few.
    """
    random, size = np.random.default_rng(0), len(labels)
    if task.is_regression:
        for _ in range(RESAMPLES):
            chosen = random.integers(size, size=size)
            yield predictions[:, chosen], labels[chosen]
        return
    kinds, counts = np.unique(np.vstack([predictions, labels]), axis=1, return_counts=True)
    for drawn in random.multinomial(size, counts / size, size=RESAMPLES):
        yield kinds[:-1], kinds[-1], drawn


def _majority_score(requests: GlueRequests) -> float:
    """Of answering every example with the training examples' most frequent class; of a regression's correlations 0."""
    if requests.task.is_regression:
        return 0.0
    labels, majority = requests.validation.labels, np.bincount(requests.train.labels).argmax()
    return task_metrics(requests.task, np.full(len(labels), majority), labels)[SCORE]

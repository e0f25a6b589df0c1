"""The tasks of GLUE: their columns, labels and metrics."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from jaxpaint.base.errors import UserError


@dataclass(frozen=True)
class GlueTask:
    """`columns` hold one text or two; `num_labels` counts classes, and is 1 for a number to predict."""

    name: str
    columns: tuple[str, ...]
    num_labels: int
    metrics: tuple[str, ...]
    validation_split: str = "validation"

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers, from 0 to 5."""
        return self.num_labels == 1


_PAIR = ("sentence1", "sentence2")
TASKS: Mapping[str, GlueTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            GlueTask("cola", ("sentence",), 2, ("matthews_correlation",)),
            GlueTask("mnli", ("premise", "hypothesis"), 3, ("accuracy",), "validation_matched"),
            GlueTask("mrpc", _PAIR, 2, ("f1", "accuracy")),
            GlueTask("qnli", ("question", "sentence"), 2, ("accuracy",)),
            GlueTask("qqp", ("question1", "question2"), 2, ("f1", "accuracy")),
            GlueTask("rte", _PAIR, 2, ("accuracy",)),
            GlueTask("sst2", ("sentence",), 2, ("accuracy",)),
            GlueTask("stsb", _PAIR, 1, ("pearson", "spearmanr")),
            GlueTask("wnli", _PAIR, 2, ("accuracy",)),
        )
    }
)
# What the paper averages: it leaves out MNLI and QQP.
PAPER = ("cola", "mrpc", "qnli", "rte", "sst2", "stsb", "wnli")
SCORE = "score"
MAJORITY = "majority_score"  # of answering every example with the most frequent class of the training examples


def glue_task(name: str) -> GlueTask:
    """The task of a name. Raises UserError for one that GLUE does not have."""
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower().replace("-", ""), TASKS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"GLUE has no task {name!r}{hint} (known: {', '.join(TASKS)})")
    return TASKS[name]


def task_metrics(
    task: GlueTask, predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, float]:
    """The task's metrics, and their mean as `score`, which GLUE and `run_glue.py` (`combined_score`) average.

    `predictions` [examples] are classes, or numbers for a regression. `counts` says how often each example counts
    (classes only; default: once). A correlation with values that are all the same is 0.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    known = {
        "accuracy": lambda: accuracy_score(labels, predictions, sample_weight=counts),
        "f1": lambda: f1_score(labels, predictions, sample_weight=counts, zero_division=0.0),
        "matthews_correlation": lambda: (
            0.0 if constant else matthews_corrcoef(labels, predictions, sample_weight=counts)
        ),
        "pearson": lambda: 0.0 if constant else pearsonr(predictions, labels).statistic,
        "spearmanr": lambda: 0.0 if constant else spearmanr(predictions, labels).statistic,
    }
    found = {name: float(known[name]()) for name in task.metrics}
    return {**found, SCORE: sum(found.values()) / len(found)}

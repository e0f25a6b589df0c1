"""The tasks of GLUE: columns, labels and metrics, and their examples from the hub's `glue` or from local files."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.glue_tsv import read_tsv
from jaxpaint.tasks.local_data import BUILDERS, builder_of, kind_of, quiet_datasets, reason

HUB = "nyu-mll/glue"
TSV = (".tsv", ".tsv.gz")
KINDS = (*BUILDERS, *TSV)
"""How the names of files with examples end."""


@dataclass(frozen=True)
class GlueTask:
    """`columns` hold one text or two; `classes` are the labels' names in order, none for a number to predict."""

    name: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    validation_split: str = "validation"

    @property
    def num_labels(self) -> int:
        """How many numbers a classifier gives."""
        return len(self.classes) or 1

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers, from 0 to 5."""
        return not self.classes


_PAIR = ("sentence1", "sentence2")
_ENTAILED, _INFERRED = ("entailment", "not_entailment"), ("entailment", "neutral", "contradiction")
TASKS: Mapping[str, GlueTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            GlueTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
            GlueTask("mnli", ("premise", "hypothesis"), _INFERRED, ("accuracy",), "validation_matched"),
            GlueTask("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
            GlueTask("qnli", ("question", "sentence"), _ENTAILED, ("accuracy",)),
            GlueTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
            GlueTask("rte", _PAIR, _ENTAILED, ("accuracy",)),
            GlueTask("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
            GlueTask("stsb", _PAIR, (), ("pearson", "spearmanr")),
            GlueTask("wnli", _PAIR, ("not_entailment", "entailment"), ("accuracy",)),
        )
    }
)
# What the paper averages: it leaves out MNLI and QQP.
PAPER = ("cola", "mrpc", "qnli", "rte", "sst2", "stsb", "wnli")
SCORE = "score"


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


@dataclass(frozen=True, eq=False)
class Examples:
    """`texts` hold one text or two each; `labels` [examples] are int32 classes, or float32 for a regression."""

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(task: GlueTask, split: str, file: Path | None = None, limit: int | None = None) -> Examples:
    """The first `limit` examples of a split, from `file` (one of `KINDS`) or else from the hub.

    Raises UserError for a file that cannot be read or is empty; a column that is missing; a text that is none; a label
    outside the task's range; validation labels of a regression that are all the same. Rows count from 1.
    """
    where = str(file) if file else f"{HUB} {task.name}, split {split}"
    try:
        found = _columns(task, split, file, limit)
    except UserError:
        raise
    except Exception as error:  # `datasets` and its readers raise a dozen unrelated types here
        hint = "" if file else f"; without a network give --data {task.name}:{split}=FILE"
        raise UserError(f"cannot read {where}: {reason(error)}{hint}") from error
    if missing := [column for column in (*task.columns, "label") if column not in found]:
        raise UserError(f"{where} lacks the column {', '.join(missing)} of {task.name}; it has {', '.join(found)}")
    if not found["label"]:
        raise UserError(f"{where} holds no rows")
    for column in task.columns:
        for row, value in enumerate(found[column], 1):
            if not isinstance(value, str):
                raise UserError(f"{where}, row {row}: {column} is {value!r}, not a text")
    labels = [_label(task, value, f"{where}, row {row}") for row, value in enumerate(found["label"], 1)]
    if split == task.validation_split and task.is_regression and len(set(labels)) == 1:
        raise UserError(
            f"{where}: the labels of {len(labels)} example{'s' * (len(labels) > 1)} are all {labels[0]:g}, and "
            f"{task.name} is scored by correlations, which need different ones"
        )
    texts = zip(*(found[column] for column in task.columns), strict=True)
    return Examples(tuple(texts), np.array(labels, np.float32 if task.is_regression else np.int32))


def _columns(task: GlueTask, split: str, file: Path | None, limit: int | None) -> Mapping[str, Sequence[Any]]:
    """A split's first rows, by column; of columns that the task has no use for, the names."""
    if file and kind_of(file) in TSV:
        return read_tsv(task, file, limit)

    import datasets

    with quiet_datasets():
        if file:
            builder, options = builder_of(file, [file], task.columns)
            files = {split: glob.escape(str(file))}
            rows = datasets.load_dataset(builder, data_files=files, split=split, **options)
        else:
            rows = datasets.load_dataset(HUB, task.name, split=split)
        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        used = {*task.columns, "label"}
        return {name: rows[name][:] if name in used else () for name in rows.column_names}


def _label(task: GlueTask, value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if task.is_regression:
        if not is_number or not 0 <= value <= 5:
            raise UserError(f"{where}: label {value!r} is not a number from 0 to 5{_hidden(value)}")
        return float(value)
    # A column with a fraction or a hole in it is read as floats, all of it.
    if not is_number or not 0 <= value < task.num_labels or value != int(value):
        raise UserError(f"{where}: label {value!r} is not one of 0 to {task.num_labels - 1}{_hidden(value)}")
    return int(value)


def _hidden(value: Any) -> str:
    return ": GLUE hides the labels of its test splits" if value == -1 else ""

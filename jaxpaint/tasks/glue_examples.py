"""A GLUE task's examples, from the hub's `glue` or from local files, checked."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.glue import GlueTask
from jaxpaint.tasks.local_data import BUILDERS, quiet_datasets, reason

HUB = "nyu-mll/glue"


@dataclass(frozen=True, eq=False)
class Examples:
    """`texts` hold one text or two each; `labels` [examples] are int32 classes, or float32 for a regression."""

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(task: GlueTask, split: str, file: Path | None = None, limit: int | None = None) -> Examples:
    """The first `limit` examples of a split, from `file` (JSON lines or Parquet) or else from the hub.

    Raises:
        UserError: a file that cannot be read or is empty; a column that is missing; a text that is none; a label
            outside the task's range; validation labels of a regression that are all the same. Rows count from 1.
    """
    import datasets

    where = str(file) if file else f"{HUB} {task.name}, split {split}"
    try:
        with quiet_datasets():
            if file:
                files = {split: glob.escape(str(file))}
                rows = datasets.load_dataset(BUILDERS[file.suffix], data_files=files, split=split)
            else:
                rows = datasets.load_dataset(HUB, task.name, split=split)
            if limit is not None:
                rows = rows.select(range(min(limit, len(rows))))
            found = {name: rows[name][:] for name in (*task.columns, "label") if name in rows.column_names}
    except Exception as error:  # `datasets` and its readers raise a dozen unrelated types here
        hint = "" if file else f"; without a network give --data {task.name}:{split}=FILE"
        raise UserError(f"cannot read {where}: {reason(error)}{hint}") from error
    if not len(rows):
        raise UserError(f"{where} holds no rows")
    missing = [column for column in (*task.columns, "label") if column not in found]
    if missing:
        raise UserError(
            f"{where} lacks the column {', '.join(missing)} of {task.name}; it has {', '.join(rows.column_names)}"
        )
    columns = [found[column] for column in task.columns]
    for column, values in zip(task.columns, columns, strict=True):
        for row, value in enumerate(values, 1):
            if not isinstance(value, str):
                raise UserError(f"{where}, row {row}: {column} is {value!r}, not a text")
    labels = [_label(task, value, f"{where}, row {row}") for row, value in enumerate(found["label"], 1)]
    if task.is_regression and split == task.validation_split and len(set(labels)) == 1:
        raise UserError(
            f"{where}: the labels of {len(labels)} example{'s' * (len(labels) > 1)} are all {labels[0]:g}, and "
            f"{task.name} is scored by correlations, which need different ones"
        )
    return Examples(tuple(zip(*columns, strict=True)), np.array(labels, np.float32 if task.is_regression else np.int32))


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

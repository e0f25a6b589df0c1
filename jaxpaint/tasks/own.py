"""A task of one's own questions: a file of them and lm-eval's configuration, without a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.local_data import data_file

if TYPE_CHECKING:
    from lm_eval.api.task import Task

SPLIT = "test"


@dataclass(frozen=True)
class OwnTask:
    """A task that takes its documents from `path`, usable wherever a task's name is.

    `config` is lm-eval's configuration of it, as its YAML files have it, without the data.
    """

    name: str
    path: Path
    config: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    def require_columns(self, task: Task) -> None:
        """Raises UserError where the file, as lm-eval has loaded it, lacks a column that the configuration names."""
        columns = tuple(task.eval_docs.features)
        for key in ("doc_to_text", "doc_to_choice", "doc_to_target"):
            if (named := self.config[key]) not in columns and "{{" not in named:
                raise UserError(f"{self.path} has no column {named!r}; its columns are {', '.join(columns)}")


def multiple_choice(
    path: str | Path,
    *,
    question: str = "question",
    choices: str = "choices",
    answer: str = "answer",
    name: str | None = None,
) -> OwnTask:
    """Questions with several answers of which one is right, in a JSONL, JSON, CSV or Parquet file, one a row.

    `question`, `choices` and `answer` are columns: a text, a list of texts, and the right one's number from 0, or its
    text. Or they are templates of lm-eval's: `question="Question: {{question}}\\nAnswer:"`, `choices="{{[a, b]}}"`.
    The model reads the question, a space and a choice; it is right where the right choice is the most likely (`acc`,
    and `acc_norm` by choices' lengths in characters). The task is called `name`, by default like the file.

    Raises:
        UserError: no such file, or of an unknown kind. A missing column, and documents that make no sense, are told
            when the task is scored.
    """
    file = data_file(path, "multiple_choice")
    called = name if name is not None else file.name.split(".")[0]
    each = {"aggregation": "mean", "higher_is_better": True}
    config = {
        "task": called,
        "test_split": SPLIT,
        "output_type": "multiple_choice",
        "doc_to_text": question,
        "doc_to_choice": choices,
        "doc_to_target": answer,
        "metric_list": [{"metric": "acc", **each}, {"metric": "acc_norm", **each}],
        "metadata": {"version": 1},
    }
    return OwnTask(called, file, config)

"""GLUE's own files (`train.tsv`, `dev.tsv`), read as the hub's `glue` was made of them: quotes are text, no escapes."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import decoded

if TYPE_CHECKING:
    from jaxpaint.tasks.glue import GlueTask

# Where GLUE's names of columns are not the hub's. CoLA's files have none.
_COLUMNS = {
    "mnli": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    "qqp": {"label": "is_duplicate"},
    "stsb": {"label": "score"},
}
_COLA = ["source", "label", "original", "sentence"]
_ENTAILMENT = {"entailment": 0, "not_entailment": 1}
_LABELS: Mapping[str, Mapping[str, int]] = {
    "mnli": {"entailment": 0, "neutral": 1, "contradiction": 2},
    "qnli": _ENTAILMENT,
    "rte": _ENTAILMENT,
}


def tsv_file(folder: Path, split: str) -> Path:
    """The file of a split in a folder of GLUE's."""
    return folder / f"{split.replace('validation', 'dev')}.tsv"


def read_tsv(task: GlueTask, file: Path, limit: int | None = None) -> dict[str, list[Any]]:
    """The first rows by the hub's names of columns, labels as numbers where they are some; other columns empty.

    Raises:
        UserError: a file that cannot be read, or a row that is too short. Of QQP such rows are left out, as the hub has
            it: its training file has a few.
    """
    lines = [line for line in _text(file).split("\n") if line]
    header = lines[0].split("\t") if lines else []
    if task.name == "cola" and "sentence" not in header:
        header = _COLA
    else:
        del lines[:1]
    places: dict[str, int] = {}
    for name in (*task.columns, "label"):
        theirs = _COLUMNS.get(task.name, {}).get(name, name)
        if theirs in header or name in header:
            places[name] = header.index(theirs if theirs in header else name)
    rows = []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if len(cells) > max(places.values(), default=0):
            rows.append(cells)
        elif task.name != "qqp":
            raise UserError(f"{file}, row {number}: it has {len(cells)} of {len(header)} columns")
        if len(rows) == limit:
            break
    other: dict[str, list[Any]] = {name: [] for name in header if name not in places}
    found: dict[str, list[Any]] = {name: [cells[place] for cells in rows] for name, place in places.items()}
    if "label" in found:
        found["label"] = [_label(task, text) for text in found["label"]]
    return found | other


def _text(file: Path) -> str:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    return decoded(content, str(file))


def _label(task: GlueTask, text: str) -> Any:
    """As a number, or as it stands, to be refused."""
    known = _LABELS.get(task.name, {})
    try:
        return known[text] if text in known else float(text) if task.is_regression else int(text)
    except ValueError:
        return text

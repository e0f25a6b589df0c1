"""A results store as text: tables for reading and for documents, and CSV, JSON and lm-eval's schema for programs."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import parts
from jaxpaint.results.damage import reading
from jaxpaint.results.grid import WIDTH, grid
from jaxpaint.results.group_scores import GroupCell, GroupScores, all_scores
from jaxpaint.results.groups import stored
from jaxpaint.results.layout import READABLE
from jaxpaint.results.selection import Selection, selected

EVERYTHING = Selection()
Row = dict[str, Any]


def results_text(store: Path, format: str, selection: Selection = EVERYTHING, width: int = WIDTH) -> str:
    """Everything but the scores of single requests and documents, ending with a newline.

    `format`: "table", for reading, has a row per plan and a column per task's main metric, in lines of at most `width`
    columns; "markdown", "latex" and "html" are the same for documents. "csv" has a row per cell, strategy that its plan
    stands for, and metric, with empty fields for what is unknown, and settings only where `selection.columns` name
    them. "json" is the store's tables. "lm-eval" is a JSON list of result objects of lm-evaluation-harness, one per
    model and plan, with what `jaxpaint eval --output` adds, as far as the store knows it: finished cells alone.
    These two take no selection.

    Raises:
        UserError: no such format, what the store does not have, or the store cannot be read.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} of results; the formats are {', '.join(FORMATS)}")
    if format in WHOLE:
        if selection != EVERYTHING:
            raise UserError(f"--format {format} has all of the store; choose of it by --format csv, or --json")
        with reading(store) as connection:
            return WHOLE[format](connection)
    from jaxpaint.results import frames

    with reading(store) as connection:
        if format == "table" and not selection.of_plans:
            return grid(connection, width, selection.tasks, selection.strategies)
        if format == "csv":
            return frames.csv_text(selected(connection, selection), selection.named())
        rows = selected(connection, selection, main=True)
    frame = frames.wide_frame(rows, selection)
    writers = {"markdown": frames.markdown_text, "latex": frames.latex_text, "html": frames.html_text}
    return frames.text_lines(frame, width) if format == "table" else writers[format](frame)


def results_parquet(store: Path, selection: Selection = EVERYTHING) -> bytes:
    """As "csv" of `results_text`, in Parquet. Raises UserError as there."""
    from jaxpaint.results import frames

    with reading(store) as connection:
        return frames.parquet_bytes(frames.long_frame(selected(connection, selection), selection.named()))


def results_rows(store: Path, selection: Selection = EVERYTHING) -> list[Row]:
    """As "csv" of `results_text`, as values. Raises UserError as there."""
    with reading(store) as connection:
        return [{name: row[name] for name in selection.named()} for row in selected(connection, selection)]


def _json(connection: sqlite3.Connection) -> str:
    tables = {
        name: _rows(connection, f"SELECT * FROM {name} ORDER BY id")
        for name in ("models", "tasks", "plans", "variants", "environments", "cells", "runs")
    }
    metrics = _by(_rows(connection, "SELECT * FROM metrics ORDER BY cell, metric, filter"), "cell")
    for cell in tables["cells"]:
        cell["metrics"] = metrics.get(cell["id"], [])
        for row in cell["metrics"]:
            del row["cell"]
    for task in tables["tasks"]:
        task["settings"] = json.loads(task["settings"])
    groups = [
        {"id": each.id, **asdict(each.group), "tasks": each.tasks, "settings": json.loads(each.settings)}
        for each in stored(connection)
    ]
    for environment in tables["environments"]:
        environment["description"] = json.loads(environment["description"])
    analyses = _rows(connection, "SELECT * FROM analyses ORDER BY model, plan, name, settings")
    for analysis in analyses:
        analysis |= {name: json.loads(analysis[name]) for name in ("settings", "value")}
    return _dumped({"version": READABLE[0], **tables, "groups": groups, "analyses": analyses})


def _lm_eval(connection: sqlite3.Connection) -> str:
    cells = _rows(
        connection,
        "SELECT c.id, c.model, c.plan, t.name AS task, t.version, t.num_fewshot, t.bos, t.settings, c.documents, "
        "c.seconds, e.description AS environment FROM cells AS c JOIN tasks AS t ON t.id = c.task "
        "LEFT JOIN environments AS e ON e.id = c.environment WHERE c.status <> 'running' ORDER BY c.id",
    )
    metrics = _by(_rows(connection, "SELECT * FROM metrics ORDER BY cell, filter, metric"), "cell")
    models = {row["id"]: row for row in _rows(connection, "SELECT * FROM models")}
    plans = {row["id"]: row for row in _rows(connection, "SELECT * FROM plans")}
    variants = _by(_rows(connection, "SELECT * FROM variants ORDER BY id"), "plan")
    # An object holds a task once, and was made with one setting of BOS.
    objects: dict[tuple, list[Row]] = {}
    seen: Counter[tuple] = Counter()
    for cell in cells:
        cell |= {"settings": json.loads(cell["settings"]), "metrics": metrics.get(cell["id"], [])}
        key = (cell["model"], cell["plan"], cell["bos"])
        objects.setdefault((*key, seen[*key, cell["task"]]), []).append(cell)
        seen[*key, cell["task"]] += 1
    groups = all_scores(connection)
    found = []
    for (model, plan, *_), members in objects.items():
        num_layers = models[model]["num_layers"]
        labels = [row["label"] for row in variants.get(plan, []) if row["num_layers"] == num_layers]
        found.append(_result_object(models[model], plans[plan], labels, members, groups))
    return _dumped(found)


def _result_object(model: Row, plan: Row, labels: list[str], cells: list[Row], groups: Sequence[GroupScores]) -> Row:
    lengths = {cell["settings"].get("max_length") for cell in cells}
    environments = {cell["environment"] for cell in cells}

    def by_task(make: Callable[[Row], Any]) -> Row:
        return {cell["task"]: make(cell) for cell in cells}

    here = {cell["id"] for cell in cells}
    of_groups = {
        each.name: (each, _group_results(each, cell))
        for each in groups
        for cell in each.cells
        if here >= set(cell.cells)
    }
    in_groups = {name: results for name, (_, results) in of_groups.items()}
    return {
        "results": by_task(_task_results) | in_groups,
        **({"groups": in_groups} if in_groups else {}),
        "group_subtasks": {name: list(each.stored.group.children) for name, (each, _) in of_groups.items()},
        "configs": by_task(_config),
        "versions": by_task(lambda cell: _version(cell["version"]))
        | {name: _version(each.stored.group.version) for name, (each, _) in of_groups.items()},
        "n-shot": by_task(lambda cell: cell["num_fewshot"]),
        "higher_is_better": by_task(_higher_is_better),
        "n-samples": by_task(lambda cell: {"effective": cell["documents"]}),
        "config": {
            "model": "jaxpaint",
            **{f"model_{name}": model[name] for name in ("source", "revision", "fingerprint", "num_layers")},
            "plan": plan["text"],
            "plan_cost": plan["cost"],
            "plan_depth": plan["depth"],
            "plan_labels": labels,
            "bos": cells[0]["bos"],
            **dict(zip(("dtype", "weights"), parts(model["dtype"]), strict=True)),
            "max_length": lengths.pop() if len(lengths) == 1 else None,
        },
        "environment": json.loads(environments.pop() or "null") if len(environments) == 1 else None,
        "timing": {"device_seconds": sum(cell["seconds"] for cell in cells)},
    }


def _config(cell: Row) -> Row:
    metadata = {"version": _version(cell["version"]), **cell["settings"]}
    return {"task": cell["task"], "num_fewshot": cell["num_fewshot"], "metadata": metadata}


def _higher_is_better(cell: Row) -> Row:
    stored = {row["metric"]: row["higher_is_better"] for row in cell["metrics"]}
    return {metric: None if better is None else bool(better) for metric, better in stored.items()}


def _task_results(cell: Row) -> Row:
    return _results(cell["task"], cell["documents"], cell["metrics"])


def _group_results(scores: GroupScores, cell: GroupCell) -> Row:
    return _results(scores.name, cell.documents, [asdict(row) for row in cell.metrics])


def _results(name: str, documents: int | None, metrics: Sequence[Row]) -> Row:
    values: Row = {"name": name, "alias": name, "sample_len": documents}
    for row in metrics:
        values[f"{row['metric']},{row['filter']}"] = row["value"]
        values[f"{row['metric']}_stderr,{row['filter']}"] = "N/A" if row["stderr"] is None else row["stderr"]
    return values


def _version(text: str) -> Any:
    """lm-eval's versions are mostly numbers, which the store keeps as text."""
    try:
        return float(text)
    except ValueError:
        return text


def _rows(connection: sqlite3.Connection, query: str) -> list[Row]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _by(rows: list[Row], column: str) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


WHOLE: Mapping[str, Callable[[sqlite3.Connection], str]] = MappingProxyType({"json": _json, "lm-eval": _lm_eval})
FORMATS = ("table", "csv", *WHOLE, "markdown", "latex", "html")
"""Of text; `results_parquet` has one of bytes."""

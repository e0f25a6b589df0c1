"""Of a results store the results that are asked for: by task, strategy and metric, sorted, beside the full model's."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from jaxpaint.base.errors import UserError
from jaxpaint.results import kinds
from jaxpaint.results.group_scores import GroupCell, GroupScores, all_scores, difference
from jaxpaint.results.groups import counted
from jaxpaint.results.metrics import MetricRow
from jaxpaint.results.paired import paired_difference

COLUMNS = (
    *("model", "revision", "fingerprint", "dtype", "num_layers", "task", "version", "num_fewshot", "bos", "settings"),
    *("chance", "plan", "cost", "depth", "strategy", "label", "start", "seed", "iterations", "times", "layer"),
    *("affected", "metric", "main_metric", "filter", "value", "stderr", "higher_is_better", "documents", "status"),
    *("seconds", "finished", "members"),
)
_STORED = tuple(name for name in COLUMNS if name != "members")
USUAL = tuple(name for name in COLUMNS if name != "settings")  # of some 200 characters a row
DIFFERENCES = ("difference", "difference_stderr")
BY_PLAN = ("cost", "depth", "label", "plan", "strategy", "start", "seed", "iterations", "times", "layer", "affected")
ALL = "all"
Row = dict[str, Any]


class _OfGroup(NamedTuple):
    """What a row of a group is made of; `members` are what `_task` says of its tasks."""

    scores: GroupScores
    cell: GroupCell
    metric: MetricRow
    members: frozenset[Any]


@dataclass(frozen=True)
class Selection:
    """What is asked for; empty is everything.

    `metric` None is each task's main one. `sort` is a task, "score" (the mean over tasks, best first) or one of
    `BY_PLAN`; `top` so many plans of each model. `columns` are of `COLUMNS`. With `diff` the full model's results stand
    beside the others.
    """

    tasks: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    metric: str | None = None
    sort: str | None = None
    top: int | None = None
    columns: tuple[str, ...] = ()
    diff: bool = False

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise UserError(f"--top is {self.top}; give 1 or more")
        for name in self.columns:
            if name not in (*COLUMNS, *DIFFERENCES, ALL):
                raise unknown("--columns", name, [*COLUMNS, *(DIFFERENCES if self.diff else ()), ALL])

    @property
    def of_plans(self) -> bool:
        """Whether plans are chosen or put in order, or shown with other columns than a store's usual table has."""
        return self != Selection(tasks=self.tasks, strategies=self.strategies)

    def named(self) -> tuple[str, ...]:
        """The columns that are asked for, or the usual ones."""
        if ALL in self.columns:
            return (*COLUMNS, *(DIFFERENCES if self.diff else ()))
        return self.columns or (*USUAL, *(DIFFERENCES if self.diff else ()))


def selected(connection: sqlite3.Connection, selection: Selection, *, main: bool = False) -> list[Row]:
    """A row for each cell, strategy that its plan stands for, and metric, of those that are asked for, in order; of
    `main` metrics alone where no other is named. Groups of tasks come first: `members` is how many tasks these have.

    Rows have all columns, `difference` and its standard error where the selection has `diff` (else None), and `cell`.
    Raises UserError for a task, strategy, metric or order that the store does not have.
    """
    query = f"SELECT {', '.join(_STORED)}, cell FROM results ORDER BY cell, label, metric, filter"
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    rows: list[Row] = [dict(zip(names, row, strict=True)) | {"members": None} for row in cursor]
    rows = [*_of_groups(connection, rows), *rows]
    for option, column, asked in (
        ("--tasks", "task", selection.tasks),
        ("--strategies", "strategy", selection.strategies),
        ("--metric", "metric", () if selection.metric is None else (selection.metric,)),
    ):
        there = {row[column] for row in rows if row[column] is not None}
        for name in asked:
            if name not in there:
                raise unknown(option, name, sorted(there))
    rows = [row for row in rows if row["task"] in (selection.tasks or (row["task"],))]
    if main and selection.metric is None:
        rows = _main(rows)
    elif selection.metric is not None:
        rows = [row for row in rows if row["metric"] in (selection.metric, None)]
    differences = _differences(connection, rows) if selection.diff else {}
    for row in rows:
        found = differences.get((row["cell"], row["metric"], row["filter"]), (None, None))
        row |= dict(zip(DIFFERENCES, found, strict=True))
    rows = [row for row in rows if row["strategy"] in (selection.strategies or (row["strategy"],))]
    return _in_order(rows, selection)


def _of_groups(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Row]:
    """A row for each group, plan under which its members were asked, strategy and metric; with `of_group`, by which it
    is compared with others, in place of its cells."""
    by_cell: dict[int, dict[Any, Row]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], {}).setdefault(row["label"], row)
    found = []
    for scores in all_scores(connection):
        of_group: Row = {"task": scores.name, "version": scores.stored.group.version, "num_fewshot": scores.num_fewshot}
        of_group |= {"settings": scores.settings, "chance": scores.chance, "main_metric": scores.metric}
        of_group |= {"members": len(scores.stored.tasks)}
        for cell in scores.cells:
            tasks = frozenset(_task(next(iter(by_cell[each].values()))) for each in cell.cells)
            state = {name: getattr(cell, name) for name in ("documents", "status", "seconds", "finished")}
            for row in by_cell[cell.cells[0]].values():
                for metric in cell.metrics or (MetricRow(None, None, None),):  # type: ignore[arg-type]
                    own = row | of_group | state | asdict(metric) | {"cell": (scores.stored.id, *cell.cells)}
                    found.append(own | {"of_group": _OfGroup(scores, cell, metric, tasks)})
    return found


def _main(rows: Iterable[Row]) -> list[Row]:
    """Those of each task's main metric, under the filter that counts."""
    own = [row for row in rows if row["metric"] in (row["main_metric"], None)]
    filters: dict[tuple[str, ...], set[str]] = {}
    for row in own:
        if row["filter"] is not None:
            filters.setdefault(_task(row), set()).add(row["filter"])
    return [row for row in own if row["filter"] in (None, kinds.preferred(filters.get(_task(row), ())))]


def _task(row: Row) -> tuple[Any, ...]:
    """What tells a task's results from another's: the model, and how it is asked."""
    return tuple(row[name] for name in ("fingerprint", "dtype", "task", "version", "num_fewshot", "bos", "settings"))


def _differences(
    connection: sqlite3.Connection, rows: Sequence[Row]
) -> Mapping[tuple[Any, str, str], tuple[float | None, float | None]]:
    """Of each cell, metric and filter the difference from the full model on the same documents, and its standard error;
    of a metric that is no mean of documents the difference of values alone."""
    full = {(_task(row), row["metric"], row["filter"]): row for row in rows if row["strategy"] == "full"}
    found = {}
    for row in rows:
        beside = full.get((_task(row), row["metric"], row["filter"]))
        if beside is None or row["metric"] is None:
            continue
        key = row["cell"], row["metric"], row["filter"]
        if key not in found:
            found[key] = _paired(connection, row, beside)
    return found


_PAIRS = """
    SELECT a.value, b.value FROM document_scores a
    JOIN document_scores b USING (document, metric, filter)
    WHERE a.cell = ? AND b.cell = ? AND a.metric = ? AND a.filter = ? AND a.value IS NOT NULL AND b.value IS NOT NULL
"""


def _paired(connection: sqlite3.Connection, row: Row, full: Row) -> tuple[float | None, float | None]:
    if own := row.get("of_group"):
        return difference(connection, own.scores, own.cell, full["of_group"].cell, own.metric)
    query = (row["cell"], full["cell"], row["metric"], row["filter"])
    pairs = connection.execute(_PAIRS, query).fetchall()
    if row["value"] is None or full["value"] is None:
        return None, None
    return paired_difference(row["value"], full["value"], [own for own, _ in pairs], [other for _, other in pairs])


def _in_order(rows: list[Row], selection: Selection) -> list[Row]:
    """Rows plan by plan, as --sort says or else as they are stored; of each model the first --top plans."""
    if selection.sort is None and selection.top is None:
        return rows
    plans: dict[tuple[Any, ...], list[Row]] = {}
    averaged = _averaged(rows)
    for row in rows:
        plans.setdefault((row["fingerprint"], row["dtype"], row["plan"], row["label"]), []).append(row)
    key = selection.sort or "score"
    tasks = {row["task"] for row in rows}
    if key not in (*tasks, "score", *BY_PLAN):
        raise unknown("--sort", key, ["score", *sorted(tasks), *BY_PLAN])
    ordered = sorted(plans.values(), key=lambda own: _place(own, key, averaged))
    taken: dict[tuple[Any, ...], int] = {}
    kept: list[Row] = []
    for own in ordered:
        model = own[0]["fingerprint"], own[0]["dtype"]
        taken[model] = taken.get(model, 0) + 1
        if selection.top is None or taken[model] <= selection.top:
            kept += own
    return kept


def _averaged(rows: Sequence[Row]) -> frozenset[Any]:
    """What counts in the mean over tasks, by `_task`: groups in place of their members."""
    groups = {_task(row): own.members for row in rows if (own := row.get("of_group"))}
    chosen = counted(groups)
    members = frozenset().union(*(groups[name] for name in chosen))
    return frozenset(_task(row) for row in rows) - groups.keys() - members | frozenset(chosen)


def _place(own: Sequence[Row], key: str, averaged: frozenset[Any]) -> tuple[bool, Any]:
    """Where a plan stands: what is unknown comes last."""
    if key in BY_PLAN:
        value = own[0][key]
        return value is None, value if value is not None else 0
    scores = [
        row["value"] if row["higher_is_better"] else -row["value"]
        for row in own
        if row["value"] is not None and (key == row["task"] or (key == "score" and _task(row) in averaged))
    ]
    return not scores, -math.fsum(scores) / len(scores) if scores else 0.0


def unknown(option: str, name: str, known: Sequence[str]) -> UserError:
    """An error that has the likely names, or all."""
    near = get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
    return UserError(f"{option} {name} is not there; {hint}")

"""Scores of groups of tasks, made of their members' as lm-eval makes them, when a store is read.

Every function here runs inside its caller's `reading`.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxpaint.results import kinds
from jaxpaint.results.groups import GroupMetric, StoredGroup
from jaxpaint.results.groups import stored as stored_groups
from jaxpaint.results.metrics import MetricRow
from jaxpaint.results.paired import Member, group_difference
from jaxpaint.results.reading import NOT_FINITE, RUNNING, TaskRow
from jaxpaint.results.schema import canonical_json

# What figures show, as of tasks, or else a group's first metric. A guess scores the same in both.
MEANS = ("acc_norm", "acc")


@dataclass(frozen=True)
class GroupCell:
    """A group under one plan of a model: `cells` are its members', in their order.

    It is not finite, or running, where any of these is. `documents` are those of all members, None before each has its
    first metrics.
    """

    model: int
    plan: int
    cells: tuple[int, ...]
    status: str
    documents: int | None
    seconds: float
    finished: str | None
    metrics: tuple[MetricRow, ...]


@dataclass(frozen=True)
class GroupScores:
    """A group under every plan that all of its members were asked under, of one model or of all.

    `metric` is what figures show, under `filter`. `chance` is the score of guessing, None where a member's is unknown;
    `num_fewshot` None where members have several, `settings` those that name the group and, of members that all write
    texts with the same cache, the cache.
    """

    stored: StoredGroup
    cells: tuple[GroupCell, ...]
    metric: str
    filter: str
    chance: float | None
    num_fewshot: int | None
    bos: str
    settings: str

    @property
    def name(self) -> str:
        return self.stored.group.name

    @property
    def task(self) -> TaskRow:
        """The group as a task of the store, of an id below 0, where no task's is."""
        group, asked = self.stored.group, (self.num_fewshot, self.bos, self.settings, self.chance)
        return TaskRow(-self.stored.id, group.name, group.name, group.version, *asked, self.metric, self.filter)

    def main(self, cell: GroupCell) -> MetricRow | None:
        """What figures show of a cell."""
        return next((row for row in cell.metrics if (row.metric, row.filter) == (self.metric, self.filter)), None)


def group_scores(connection: sqlite3.Connection, stored: StoredGroup, model: int | None = None) -> GroupScores | None:
    """Of a model, or of every model; None where no plan has cells of all members, or all that are finished lack the
    group's metrics."""
    cells = _cells(connection, stored, model)
    found = list(dict.fromkeys((row.metric, row.filter) for cell in cells for row in cell.metrics))
    if not cells or (not found and all(cell.documents is not None for cell in cells)):
        return None
    names = [name for name, _ in found] or [each.metric for each in stored.group.metrics]
    metric = next((name for name in MEANS if name in names), names[0])
    filter = kinds.preferred({filter for name, filter in found if name == metric})
    shots, bos, settings = _asked(connection, stored)
    chance = _chance(connection, stored, metric, filter)
    return GroupScores(stored, tuple(cells), metric, filter, chance, shots, bos, settings)


def all_scores(connection: sqlite3.Connection, model: int | None = None, bos: str | None = None) -> list[GroupScores]:
    """Of every group that has any, those with most members first; of a BOS setting, or of all."""
    found = (group_scores(connection, each, model) for each in stored_groups(connection))
    return [each for each in found if each is not None and each.bos == (bos or each.bos)]


def difference(
    connection: sqlite3.Connection, scores: GroupScores, cell: GroupCell, full: GroupCell, row: MetricRow
) -> tuple[float | None, float | None]:
    """A metric of a cell less the full model's on the same documents, and its standard error, None where unknown."""
    other = next((each for each in full.metrics if (each.metric, each.filter) == (row.metric, row.filter)), None)
    if row.value is None or other is None or other.value is None:
        return None, None
    times = Counter(scores.stored.tasks)
    cells = dict(zip(scores.stored.tasks, zip(cell.cells, full.cells, strict=True), strict=True))
    members = []
    for task, pair in cells.items():
        if found := connection.execute(_PAIRS, (*pair, row.metric, row.filter)).fetchall():
            own, of_full = zip(*found, strict=True)
            members.append(Member(own, of_full, times[task]))
    return group_difference(row.value, other.value, members, by_size=scores.stored.group.by_size(row.metric))


_PAIRS = """
    SELECT a.value, b.value FROM document_scores a
    JOIN document_scores b USING (document, metric, filter)
    WHERE a.cell = ? AND b.cell = ? AND a.metric = ? AND a.filter = ? AND a.value IS NOT NULL AND b.value IS NOT NULL
"""


@dataclass(frozen=True)
class _Cell:
    """A member's cell."""

    id: int
    status: str
    documents: int | None
    seconds: float
    finished: str | None
    metrics: Mapping[tuple[str, str], MetricRow]


def _cells(connection: sqlite3.Connection, stored: StoredGroup, model: int | None) -> list[GroupCell]:
    tasks = json.dumps(sorted(set(stored.tasks)))
    of_model, values = ("", (tasks,)) if model is None else ("AND model = ?", (tasks, model))
    where = f"task IN (SELECT value FROM json_each(?)) {of_model}"
    metrics: dict[int, dict[tuple[str, str], MetricRow]] = defaultdict(dict)
    wanted = {each.metric for each in stored.group.metrics}
    query = "SELECT cell, metric, filter, value, stderr, higher_is_better FROM metrics JOIN cells ON id = cell"
    for cell, *row in connection.execute(f"{query} WHERE {where}", values):
        if row[0] in wanted:
            metrics[cell][row[0], row[1]] = MetricRow(*row)
    members: dict[tuple[int, int], dict[int, _Cell]] = defaultdict(dict)
    query = f"SELECT model, plan, task, id, status, documents, seconds, finished FROM cells WHERE {where} ORDER BY id"
    for of, plan, task, id, *state in connection.execute(query, values):
        status, documents, seconds, finished = state
        members[of, plan][task] = _Cell(id, status, documents, seconds, finished, metrics[id])
    return [
        _joined(stored, *key, [own[task] for task in stored.tasks])
        for key, own in members.items()
        if own.keys() == set(stored.tasks)
    ]


def _joined(stored: StoredGroup, model: int, plan: int, members: Sequence[_Cell]) -> GroupCell:
    status = next((each for each in (NOT_FINITE, RUNNING) if any(member.status == each for member in members)), None)
    distinct = {member.id: member for member in members}.values()
    sizes = [member.documents for member in members]
    known = [size for size in sizes if size is not None]
    ended = [member.finished for member in members if member.finished is not None]
    rows: list[MetricRow] = []
    if len(known) == len(sizes):
        for metric in stored.group.metrics:
            rows += _aggregated(metric, members)
    return GroupCell(
        model,
        plan,
        tuple(member.id for member in members),
        status or "finished",
        sum(known) if len(known) == len(sizes) else None,
        sum(member.seconds for member in distinct),
        max(ended) if len(ended) == len(members) else None,
        tuple({(row.metric, row.filter): row for row in rows}.values()),
    )


def _aggregated(metric: GroupMetric, members: Sequence[_Cell]) -> Iterator[MetricRow]:
    """As lm_eval.api.group.Group.aggregate, by its functions: of the members that have the metric."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr, unweighted_mean_stderr

    there = sorted({filter for member in members for name, filter in member.metrics if name == metric.metric})
    for filter in there if metric.filters is None else metric.filters:
        own = [(member.documents, row) for member in members if (row := member.metrics.get((metric.metric, filter)))]
        if not own:
            continue
        sizes, values, stderrs = zip(*((size, row.value, row.stderr) for size, row in own), strict=True)
        better = {row.higher_is_better for _, row in own}
        value = stderr = None
        if None not in values:
            value = float(aggregate_subtask_metrics(values, sizes, metric.weight_by_size))
            if None not in stderrs:
                weighted = metric.weight_by_size
                stderr = float(pooled_sample_stderr(stderrs, sizes) if weighted else unweighted_mean_stderr(stderrs))
        yield MetricRow(metric.metric, filter, value, stderr, better.pop() if len(better) == 1 else None)


def _asked(connection: sqlite3.Connection, stored: StoredGroup) -> tuple[int | None, str, str]:
    """The members' common number of examples, BOS setting, and settings."""
    query = "SELECT num_fewshot, bos, settings FROM tasks WHERE id = ?"
    shots, bos, settings = zip(*(connection.execute(query, (task,)).fetchone() for task in stored.tasks), strict=True)
    caches = {kinds.kv(each) for each in settings}
    same_cache = {kinds.KV: caches.pop()} if len(caches) == 1 and None not in caches else {}
    return (
        shots[0] if len(set(shots)) == 1 else None,
        bos[0],
        canonical_json(json.loads(stored.settings) | same_cache),
    )


def _chance(connection: sqlite3.Connection, stored: StoredGroup, metric: str, filter: str) -> float | None:
    """Of guessing: the members' weighted as their scores are, by the most documents that a plan was asked."""
    query = (
        "SELECT max(documents), chance, main_metric FROM metrics JOIN cells ON cells.id = cell JOIN tasks ON "
        "tasks.id = task WHERE task = ? AND metric = ? AND filter = ?"
    )
    chances, weights = [], []
    for task in stored.tasks:
        size, chance, main = connection.execute(query, (task, metric, filter)).fetchone()
        if size is None:
            continue
        if chance is None or (main != metric and not {main, metric} <= {*MEANS}):
            return None
        chances.append(chance)
        weights.append(size if stored.group.by_size(metric) else 1)
    return sum(c * w for c, w in zip(chances, weights, strict=True)) / sum(weights) if weights else None


def parts(connection: sqlite3.Connection, scores: GroupScores) -> Counter[int]:
    """The tasks that have the group's main metric, by their ids, and how often the group has each."""
    query = "SELECT DISTINCT task FROM metrics JOIN cells ON id = cell WHERE (metric, filter) = (?, ?)"
    there = {task for (task,) in connection.execute(query, (scores.metric, scores.filter))}
    return Counter(task for task in scores.stored.tasks if task in there)

"""A results store as a table for reading: per model a row per plan and a column per task's main metric."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.results import kinds
from jaxpaint.results.group_scores import all_scores
from jaxpaint.results.latency import Spread, latencies
from jaxpaint.results.reading import RUNNING
from jaxpaint.results.schema import has_table
from jaxpaint.results.selection import unknown

WIDTH = 80
LONGEST_LABEL = 38
GAP = "  "
MORE_DOCUMENTS = "*"
# Analyses that have no table here: what they are.
STATES = "what hidden states are like"
KEPT = {kinds.FLOW: "how facts flow", kinds.STORY: "the story of one prompt"}


@dataclass(frozen=True)
class _Column:
    """A task: its heading's three lines, and what stands in the rows by plan."""

    heading: tuple[str, str, str]
    values: dict[int, str]

    def texts(self, plans: list[tuple[int, str]]) -> list[str]:
        """Heading and rows, all as wide as the widest."""
        width = max(len(text) for text in (*self.heading, *self.values.values()))
        return [text.rjust(width) for text in (*self.heading, *(self.values.get(plan, "-") for plan, _ in plans))]


def grid(
    connection: sqlite3.Connection, width: int = WIDTH, tasks: Sequence[str] = (), strategies: Sequence[str] = ()
) -> str:
    """Lines of at most `width` columns, groups of tasks before tasks; those that do not fit beside each other follow in
    blocks of their own.

    Of all tasks and strategies, or of those that are named. Raises UserError for one that the store does not have.
    """
    named = "SELECT DISTINCT name FROM tasks"
    if has_table(connection, "task_groups"):
        named += " UNION SELECT name FROM task_groups"
    _require(connection, "tasks", named, tasks)
    _require(connection, "strategies", "SELECT DISTINCT strategy FROM variants", strategies)
    models = connection.execute(
        "SELECT id, source, revision, fingerprint, dtype, num_layers FROM models "
        "WHERE id IN (SELECT model FROM cells) ORDER BY id"
    ).fetchall()
    timed, drawn = list(_timed(connection)), _drawn(connection)
    if not models and not timed and not drawn:
        return "no results yet\n"
    blocks: list[str] = []
    for model, source, revision, fingerprint, dtype, num_layers in models:
        name = f"{source or 'model'}{f' at {revision}' if revision else ''}"
        blocks.append(f"{visible_name(name)}\n{dtype}, {num_layers} layers, fingerprint {fingerprint[:16]}")
        plans = _labels(connection, model, num_layers, strategies)
        columns = [*_group_columns(connection, model, tasks), *_columns(connection, model, tasks)]
        if not plans or not columns:
            continue
        plans, looked = _without_looked_at(connection, model, plans, columns)
        blocks.extend(_blocks(plans, columns, width))
        if any(value.endswith(MORE_DOCUMENTS) for column in columns for value in column.values.values()):
            blocks.append(f"{MORE_DOCUMENTS} of fewer documents: more are being scored")
        if looked:
            blocks.append(
                f"Left out: {count(looked, 'plan')} that a search looked at on some documents. `jaxpaint report` draws "
                "its front."
            )
    beside = [] if tasks or strategies else [*timed, *drawn]
    return "\n\n".join([*blocks, *beside]) + "\n"


def _require(connection: sqlite3.Connection, option: str, query: str, asked: Sequence[str]) -> None:
    known = sorted(name for (name,) in connection.execute(query) if name is not None)
    for name in asked:
        if name not in known:
            raise unknown(f"--{option}", name, known)


def _without_looked_at(
    connection: sqlite3.Connection, model: int, plans: list[tuple[int, str]], columns: list[_Column]
) -> tuple[list[tuple[int, str]], int]:
    """The rows without plans that have no metrics, where a search was made, and how many these are."""
    query = "SELECT count(*) FROM analyses WHERE (model, name) = (?, ?)"
    if not connection.execute(query, (model, kinds.SEARCH)).fetchone()[0]:
        return plans, 0
    shown = [row for row in plans if any(column.values.get(row[0], RUNNING) != RUNNING for column in columns)]
    return shown, len(plans) - len(shown)


def _drawn(connection: sqlite3.Connection) -> list[str]:
    """What is there that is no table, and what shows it: a block, or none."""
    marks = ", ".join("?" * len(kinds.BESIDE))
    query = f"SELECT DISTINCT name, model, plan FROM analyses WHERE name NOT IN ({marks})"
    rows = connection.execute(query, kinds.BESIDE)
    found = Counter(kind for kind, _, _ in {(KEPT.get(name, STATES), *which) for name, *which in rows})
    lines = [f"  {kind}: {count(found[kind], 'plan')}" for kind in (STATES, *KEPT.values()) if found[kind]]
    if not lines:
        return []
    if found[KEPT[kinds.FLOW]]:
        lines.append("`jaxpaint flow --store` with the options that made them prints flows.")
    return ["\n".join(["Kept, and drawn by `jaxpaint report`:", *lines])]


def _timed(connection: sqlite3.Connection) -> Iterator[str]:
    """How long plans took, a block for each model, machine and sizes."""
    models = connection.execute("SELECT id, source, dtype FROM models ORDER BY id").fetchall()
    for model, source, dtype in models:
        for setting, rows in groupby(latencies(connection, model), key=lambda row: row.latency.setting):
            found = list(rows)
            columns = [["milliseconds", *(_shortened(visible_name(row.text)) for row in found)]]
            columns.append(["to the first token", *(_spread(row.latency.first) for row in found)])
            columns.append(
                ["of each further", *(_spread(row.latency.step) if row.latency.told else "-" for row in found)]
            )
            widths = [max(map(len, column)) for column in columns]
            beside = [[text.rjust(width) for text in column] for column, width in zip(columns, widths, strict=True)]
            beside[0] = [text.ljust(widths[0]) for text in columns[0]]
            head = f"{visible_name(source or 'model')}, {dtype}, on {visible_name(setting.machine)}"
            yield f"{head}\n{setting.sizes}; medians and quartiles\n\n{_block(beside)}"


def _spread(seconds: Spread) -> str:
    found = seconds.scaled(1000)
    return f"{found.median:.3g} ({found.low:.3g}-{found.high:.3g})"


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _labels(
    connection: sqlite3.Connection, model: int, num_layers: int, strategies: Sequence[str]
) -> list[tuple[int, str]]:
    """The rows: plans with each label that they have, by strategy in the order these came, then by options."""
    rows = connection.execute(
        "SELECT p.id, coalesce(v.label, p.text), v.strategy, min(v.id) OVER (PARTITION BY v.strategy) AS first "
        "FROM plans AS p LEFT JOIN variants AS v ON v.plan = p.id AND v.num_layers = ? "
        "WHERE p.id IN (SELECT plan FROM cells WHERE model = ?) "
        "ORDER BY first, v.start, v.iterations, v.times, v.layer, v.seed, v.id, p.id",
        (num_layers, model),
    )
    named = [
        (plan, visible_name(label)) for plan, label, strategy, _ in rows if not strategies or strategy in strategies
    ]
    return [(plan, _shortened(label)) for plan, label in named]


def _columns(connection: sqlite3.Connection, model: int, names: Sequence[str]) -> list[_Column]:
    tasks = connection.execute(
        "SELECT id, name, num_fewshot, bos, settings, main_metric FROM tasks "
        "WHERE id IN (SELECT task FROM cells WHERE model = ?) ORDER BY name, num_fewshot, id",
        (model,),
    ).fetchall()
    named = [(id, name, _setting(*asked), metric) for id, name, *asked, metric in tasks if not names or name in names]
    alike = Counter((name, setting) for _, name, setting, _ in named)
    columns = []
    for id, name, setting, metric in named:
        if alike[name, setting] > 1:
            setting = f"{setting}{', ' if setting else ''}#{id}"
        columns.append(_column(connection, model, id, name, setting, metric))
    return columns


def _group_columns(connection: sqlite3.Connection, model: int, names: Sequence[str]) -> list[_Column]:
    groups = [each for each in all_scores(connection, model) if not names or each.name in names]
    settings = []
    for each in groups:
        setting = _setting(each.num_fewshot or 0, each.bos, each.settings)
        settings.append(count(len(each.stored.tasks), "task") + (f", {setting}" if setting else ""))
    alike = Counter((each.name, setting) for each, setting in zip(groups, settings, strict=True))
    columns = []
    for scores, setting in zip(groups, settings, strict=True):
        if alike[scores.name, setting] > 1:
            setting = f"{setting}, #{scores.stored.id}"
        rows = [(cell, scores.main(cell)) for cell in scores.cells]
        found = [
            (cell.plan, cell.status, cell.documents, *((None, None) if row is None else (row.value, row.stderr)))
            for cell, row in rows
        ]
        columns.append(_of_rows(scores.name, setting, scores.metric, scores.filter, found))
    return columns


def _setting(num_fewshot: int, bos: str, settings: str) -> str:
    """What is not the default."""
    kv = kinds.kv(settings)
    parts = (
        (f"{num_fewshot}-shot", num_fewshot),
        (f"BOS {bos}", bos != "auto"),
        (f"kv {kv}", kv not in (None, "exact")),
        ("chat", kinds.is_chat(settings)),
        ("fine-tuned", kinds.is_finetuned(settings)),
    )
    return ", ".join(text for text, shown in parts if shown)


def _column(connection: sqlite3.Connection, model: int, task: int, name: str, setting: str, metric: str) -> _Column:
    filter = kinds.main_filter(connection, task, metric)
    rows = connection.execute(
        "SELECT c.plan, c.status, c.documents, m.value, m.stderr FROM cells AS c "
        "LEFT JOIN metrics AS m ON m.cell = c.id AND m.metric = ? AND m.filter = ? WHERE c.model = ? AND c.task = ?",
        (metric, filter, model, task),
    ).fetchall()
    return _of_rows(name, setting, metric, filter, rows)


def _of_rows(name: str, setting: str, metric: str, filter: str, rows: Sequence[tuple[Any, ...]]) -> _Column:
    """Of rows of plan, status, documents, value and standard error."""
    counts = {documents for _, _, documents, *_ in rows if documents is not None}
    if filter != "none":
        setting = f"{setting}, {filter}" if setting else filter
    number = f", n={min(counts)}{f'-{max(counts)}' if len(counts) > 1 else ''}" if counts else ""
    return _Column(
        (visible_name(name), visible_name(setting), visible_name(f"{metric}{number}")),
        {plan: _value(status, documents, value, stderr) for plan, status, documents, value, stderr in rows},
    )


def _value(status: str, documents: int | None, value: float | None, stderr: float | None) -> str:
    if documents is None:
        return RUNNING
    if value is None:
        return "not finite" if status == "not finite" else "unknown"
    text = f"{_number(value)} ±{_number(stderr)}" if stderr is not None else _number(value)
    return text + (MORE_DOCUMENTS if status == "running" else "")


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _blocks(plans: list[tuple[int, str]], columns: list[_Column], most: int) -> Iterator[str]:
    """The columns beside each other as far as they fit a line, at least one in each block."""
    width = max(len(label) for _, label in plans)
    labels = [text.ljust(width) for text in ("", "", "", *(label for _, label in plans))]
    beside = [labels]
    for column in columns:
        texts = column.texts(plans)
        if len(beside) > 1 and len(GAP.join(each[0] for each in (*beside, texts))) > most:
            yield _block(beside)
            beside = [labels]
        beside.append(texts)
    yield _block(beside)


def _block(beside: list[list[str]]) -> str:
    lines = [GAP.join(cells).rstrip() for cells in zip(*beside, strict=True)]
    return "\n".join(line for line in lines if line)

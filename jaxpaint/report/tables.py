"""The report's numbers as tables, in CSV (every digit) and Markdown (to read)."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.bootstrap import interval
from jaxpaint.report.curves import Curve
from jaxpaint.report.data import VariantRow
from jaxpaint.report.findings import Answer
from jaxpaint.report.finetuned import TunedTask
from jaxpaint.report.glue import GlueStudy
from jaxpaint.report.measurements import PAPER, Measurements

Value: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under column names; `name` is its files' name, `title` says what it holds."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[_text(value) for value in row] for row in self.rows]


def study_tables(measured: Measurements, answers: Sequence[Answer], tuned: Sequence[TunedTask] = ()) -> list[Table]:
    """Those of one study; tables without rows are left out."""
    tables = [
        _answers(answers),
        _tasks(measured),
        _strategies(measured),
        _beyond(measured),
        _iterations(measured),
        _finetuned(tuned),
        _cells(measured),
    ]
    return [table for table in tables if table.rows]


def glue_tables(glue: GlueStudy) -> list[Table]:
    """Those of GLUE results; tables without rows are left out."""
    tables = [_glue_tasks(glue), _glue_strategies(glue), _cells(glue.measured)]
    return [table for table in tables if table.rows]


def save(table: Table, folder: Path) -> tuple[Path, Path]:
    """Writes a table into `folder`; returns the CSV and the Markdown."""
    as_csv, as_markdown = folder / f"{table.name}.csv", folder / f"{table.name}.md"
    with as_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows([_exact(value) for value in row] for row in table.rows)
    lines = [table.columns, ["---"] * len(table.columns), *table.texts()]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    as_markdown.write_text(f"# {table.title}\n\n{text}\n", encoding="utf-8")
    return as_csv, as_markdown


def _answers(answers: Sequence[Answer]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for answer in answers:
        question = answer.question
        for item in answer.evidence:
            role = item.verdict or "context"
            rows.append(
                (question.number, question.text, answer.verdict, item.what, item.value, item.low, item.high, role)
            )
        if not answer.evidence:
            rows.append((question.number, question.text, answer.verdict, answer.text, None, None, None, ""))
    columns = ("question", "text", "verdict", "measured", "value", "low", "high", "says")
    return Table("answers", "The eight questions and the numbers behind the answers", columns, tuple(rows))


def _tasks(measured: Measurements) -> Table:
    rows = tuple(
        (
            score.task,
            result.task.num_fewshot,
            result.task.bos,
            score.metric if result.task.filter == "none" else f"{score.metric}, {result.task.filter}",
            score.documents,
            score.chance,
            score.value,
            score.stderr,
            score.left_out or "in the median",
        )
        for result, score in zip(measured.study.results, measured.scores.full, strict=True)
    )
    columns = ("task", "few-shot", "bos", "metric", "documents", "chance", "full model", "stderr", "use")
    return Table("full-model", "The full model on each task", columns, rows)


def _glue_tasks(glue: GlueStudy) -> Table:
    column = glue.study.full
    rows = tuple(
        (
            result.task.name,
            glue.kind,
            int(result.documents[column]),
            glue.majority(result),
            glue.full(result),
            float(result.main.stderr[column]),
        )
        for result in glue.study.results
        if column is not None
    )
    columns = ("task", "encoder", "examples", "majority", "full model", "stderr")
    return Table("full-model", "The full model on each GLUE task", columns, rows)


def _glue_strategies(glue: GlueStudy) -> Table:
    rows: list[tuple[Value, ...]] = []
    for strategy in PAPER:
        for task in (None, *glue.scores.tasks):
            curve = glue.curve(strategy, task)
            numbers = (curve.affected, curve.value, curve.low, curve.high, curve.seeds)
            for affected, value, low, high, seeds in zip(*(each.tolist() for each in numbers), strict=True):
                name = glue.measured.name(strategy)
                rows.append((name, affected, task or "average", value, low, high, seeds))
    columns = ("strategy", "affected layers", "task", "score", "low", "high", "orders")
    return Table("strategies", "Strategies on GLUE", columns, tuple(rows))


def _strategies(measured: Measurements) -> Table:
    rows = [row for s in PAPER if s != "looped-parallel" for row in _curve_rows(measured, s)]
    for count in measured.iterations:
        if count > 1:
            rows += _curve_rows(measured, "looped-parallel", iterations=count)
    for times in measured.times:
        rows += _curve_rows(measured, "block-repeat", times=times)
    return Table(
        "strategies", "Normalised score of each strategy by the number of affected layers", CURVE_COLUMNS, tuple(rows)
    )


CURVE_COLUMNS = (
    "strategy", "iterations", "times", "affected layers", "task", "normalised score", "low", "high", "seeds",
    "lowest seed", "highest seed", "depth", "cost",
)  # fmt: skip


def _curve_rows(
    measured: Measurements, strategy: str, *, iterations: int | None = None, times: int | None = None
) -> list[tuple[Value, ...]]:
    rows: list[tuple[Value, ...]] = []
    for task in (None, *measured.scores.tasks):
        curve = measured.curve(strategy, task, iterations=iterations, times=times)
        for index, affected in enumerate(curve.affected):
            numbers = (curve.value, curve.low, curve.high, curve.seeds, curve.lowest, curve.highest)
            values = [part[index].item() for part in numbers]
            last = (curve.depth[index].item(), curve.cost[index].item())
            rows.append((strategy, iterations, times, int(affected), task or "median", *values, *last))
    return rows


def _beyond(measured: Measurements) -> Table:
    """Parallel pairs and plans of the user's own."""
    point, draws = measured.scores.median
    variants = [v for v in measured.study.variants if v.strategy in ("parallel-pairs", CUSTOM)]
    rows: list[tuple[Value, ...]] = []
    for variant in variants:
        low, high = interval(draws[:, variant.column])
        plan, raw = measured.study.plans[variant.column], []
        for result in measured.study.results:
            raw.append(result.main.value[variant.column].item())
        value = point[variant.column].item()
        rows.append((variant.strategy, variant.label, plan.depth, plan.cost, value, float(low), float(high), *raw))
    raw_columns = tuple(f"{result.task.name} {result.task.metric}" for result in measured.study.results)
    columns = ("strategy", "plan", "depth", "cost", "median normalised score", "low", "high", *raw_columns)
    return Table(
        "beyond-the-paper", "Plans beyond the paper: parallel pairs, and plans of one's own", columns, tuple(rows)
    )


def _iterations(measured: Measurements) -> Table:
    """Figure 10's map."""
    if len(measured.iterations) < 2 or measured.looped is None:
        return Table("iterations", "", (), ())
    curves: list[Curve] = [measured.curve("looped-parallel", iterations=count) for count in measured.iterations]
    affected = sorted({int(value) for curve in curves for value in curve.affected})
    if not affected:
        return Table("iterations", "", (), ())
    rows = []
    for count, curve in zip(measured.iterations, curves, strict=True):
        found = dict(zip(curve.affected.tolist(), curve.value.tolist(), strict=True))
        rows.append((count, *(found.get(value) for value in affected)))
    columns = ("iterations", *(f"{value} layers" for value in affected))
    return Table(
        "iterations", "Median normalised score by iterations and number of parallel layers", columns, tuple(rows)
    )


def _finetuned(tuned: Sequence[TunedTask]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for each in tuned:
        for variant in each.variants():
            column, found = variant.column, []
            for results in (each.frozen, each.tuned):
                has = results is not None and results.status[column] is not None
                main = (results.main.value, results.main.stderr) if results is not None and has else ()
                found += [part[column].item() for part in main] or [None, None]
            plan, documents = each.study.plans[column], int(each.tuned.documents[column])
            first = (each.title, variant.strategy, variant.affected, plan.text, documents, each.task.metric)
            rows.append((*first, *found, each.how()))
    columns = (
        "task", "strategy", "affected layers", "plan", "documents", "metric", "as it is", "stderr", "fine-tuned",
        "stderr fine-tuned", "training",
    )  # fmt: skip
    return Table("fine-tuned", "Plans as they are and fine-tuned", columns, tuple(rows))


def _cells(measured: Measurements) -> Table:
    """Everything, a row for each task and strategy's plan."""
    study, rows = measured.study, []
    named = {variant.column for variant in study.variants}
    unnamed = [
        VariantRow(column, "", "", None, None, None, None, None, None)
        for column in range(len(study.plans))
        if column not in named
    ]
    for result in study.results:
        point, low, high = _normalised(measured, result.task.name)
        for variant in (*study.variants, *unnamed):
            column = variant.column
            if result.status[column] is None:
                continue
            plan = study.plans[column]
            rows.append(
                (
                    result.task.name,
                    variant.strategy,
                    variant.start,
                    variant.seed,
                    variant.iterations,
                    variant.times,
                    variant.layer,
                    variant.affected,
                    plan.text,
                    plan.depth,
                    plan.cost,
                    result.status[column],
                    int(result.documents[column]),
                    result.task.metric,
                    result.main.value[column].item(),
                    result.main.stderr[column].item(),
                    point[column].item(),
                    low[column].item(),
                    high[column].item(),
                    result.seconds[column].item(),
                )
            )
    columns = (
        "task", "strategy", "start", "seed", "iterations", "times", "layer", "affected layers", "plan", "depth", "cost",
        "status", "documents", "metric", "value", "stderr", "normalised score", "low", "high", "seconds",
    )  # fmt: skip
    return Table("scores", "Every score", columns, tuple(rows))


def _normalised(measured: Measurements, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if task not in measured.scores.tasks:
        nothing = np.full(len(measured.study.plans), math.nan)
        return nothing, nothing, nothing
    point, draws = measured.scores.of(task)
    return point, *interval(draws)


def _exact(value: Value) -> str:
    return "" if value is None or value != value else repr(value) if isinstance(value, float) else str(value)


def _text(value: Value) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)

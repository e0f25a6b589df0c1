"""The report's numbers as tables, in CSV (every digit) and Markdown (to read)."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from jaxpaint.base.shown import csv_cell, markdown_cell
from jaxpaint.plans.strategies import CUSTOM, STRATEGIES, beyond_paper, ranked
from jaxpaint.report.analysed import BY_STATE, numbers
from jaxpaint.report.bootstrap import interval
from jaxpaint.report.findings import Answer
from jaxpaint.report.finetuned import TunedTask
from jaxpaint.report.glue import GlueStudy
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.normalise import full_score
from jaxpaint.report.paired import PlanScores
from jaxpaint.report.questions.variants import iteration_map
from jaxpaint.report.timed import timed
from jaxpaint.results.reading import VariantRow

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


def study_tables(measured: Measurements, answers: Sequence[Answer]) -> list[Table]:
    """Those of one study; tables without rows are left out."""
    tables = [
        _answers([answer for answer in answers if answer.asked]),
        _tasks(measured),
        _strategies(measured),
        _beyond(measured),
        _latency(measured),
        _iterations(measured),
        _finetuned(measured.tuned),
        _by_state(measured),
        _cells(measured),
    ]
    return [table for table in tables if table.rows]


def glue_tables(glue: GlueStudy) -> list[Table]:
    """Those of GLUE results; tables without rows are left out."""
    tables = [_glue_tasks(glue), _glue_strategies(glue), _cells(Measurements.of(glue.study))]
    return [table for table in tables if table.rows]


def plans_table(scores: PlanScores) -> Table:
    """Every plan beside the full model, best first, with what flipped in numbers."""
    rows: list[tuple[Value, ...]] = []
    for rank, row in enumerate(scores.rows, 1):
        plan = scores.study.plans[row.column]
        numbers = [*row.tasks, row.average, row.difference]
        flips: list[Value] = []
        for each in row.flips:
            flips += [None, None] if each is None else [len(each.gained), len(each.lost)]
        times = None if math.isnan(row.milliseconds) else row.milliseconds
        of_plan = (rank, row.strategy, row.name, plan.text, plan.cost, plan.depth, times)
        rows.append((*of_plan, *(end for each in numbers for end in (each.value, each.low, each.high)), row.p, *flips))
    tasks = [result.task.name for result in scores.results]
    scored = [f"{result.task.name} {result.task.metric}" for result in scores.results]
    columns = (
        *("rank", "strategy", "name", "plan", "cost", "depth", "ms to the first token"),
        *(f"{name}{end}" for name in (*scored, "average", "less full") for end in ("", " low", " high")),
        "p (Holm)",
        *(f"{task} {way}" for task in tasks for way in ("gained", "lost")),
    )
    return Table("plans", "Plans, best first", columns, tuple(rows))


def flipped_table(scores: PlanScores, most: int) -> Table:
    """Documents on which any of the `most` best plans differs from the full model, with the texts that there are.

    Plans are named by their ranks in `plans_table`. A document that more of them flip comes first.
    """
    rows: list[tuple[Value, ...]] = []
    for place, result in enumerate(scores.results):
        ranks: dict[int, list[int]] = defaultdict(list)
        by_full = set()
        for rank, row in enumerate(scores.rows[:most], 1):
            if (flips := row.flips[place]) is not None:
                by_full |= {*flips.lost}
                for document in (*flips.gained, *flips.lost):
                    ranks[document].append(rank)
        for document in sorted(ranks, key=lambda number: (-len(ranks[number]), number)):
            own = ranks[document]
            text = result.texts.get(document, (None, None))
            right = "right" if document in by_full else "wrong"
            rows.append((result.task.name, document, *text, right, len(own), " ".join(map(str, own))))
    columns = (
        *("task", "document", "question", "right answer", "full model", "plans that differ"),
        "their ranks",
    )
    return Table("flipped", "Documents on which plans and the full model differ", columns, tuple(rows))


def save(table: Table, folder: Path) -> tuple[Path, Path]:
    """Writes a table into `folder`; returns the CSV and the Markdown."""
    as_csv, as_markdown = folder / f"{table.name}.csv", folder / f"{table.name}.md"
    as_csv.write_text(csv_text(table), encoding="utf-8", newline="")
    lines = [table.columns, ["---"] * len(table.columns), *table.texts()]
    text = "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)
    as_markdown.write_text(f"# {table.title}\n\n{text}\n", encoding="utf-8")
    return as_csv, as_markdown


def csv_text(table: Table) -> str:
    """A table as CSV, with every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, table.columns))
    writer.writerows([csv_cell(_exact(value)) for value in row] for row in table.rows)
    return text.getvalue()


def _answers(answers: Sequence[Answer]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for answer in answers:
        first = (answer.question.number, answer.question.text, answer.verdict)
        for item in answer.evidence:
            rows.append((*first, item.what, item.value, item.low, item.high, item.verdict or "context"))
    columns = ("question", "text", "verdict", "measured", "value", "low", "high", "says")
    return Table("answers", "The eight questions and the numbers behind the answers", columns, tuple(rows))


def _tasks(measured: Measurements) -> Table:
    rows: list[tuple[Value, ...]] = []
    counted = dict(zip(measured.study.counted, measured.scores.full, strict=True))
    for result in measured.study.shown:
        score, task = counted.get(result) or full_score(measured.study, result), result.task
        use = (score.left_out or "in the median") if result in counted else "in that of its group"
        metric = score.metric if task.filter == "none" else f"{score.metric}, {task.filter}"
        numbers = (score.documents, score.chance, score.value, score.stderr)
        rows.append((score.task, task.num_fewshot, task.bos, metric, *numbers, use))
    columns = ("task", "few-shot", "bos", "metric", "documents", "chance", "full model", "stderr", "use")
    return Table("full-model", "The full model on each task", columns, tuple(rows))


def _glue_tasks(glue: GlueStudy) -> Table:
    column = glue.study.full
    rows: list[tuple[Value, ...]] = []
    for result in glue.study.results if column is not None else ():
        numbers = (result.documents, result.main.value, result.main.stderr)
        documents, value, stderr = (each[column].item() for each in numbers)
        rows.append((result.task.name, glue.kind, documents, glue.majority(result), value, stderr))
    columns = ("task", "encoder", "examples", "majority", "full model", "stderr")
    return Table("full-model", "The full model on each GLUE task", columns, tuple(rows))


def _glue_strategies(glue: GlueStudy) -> Table:
    rows: list[tuple[Value, ...]] = []
    for strategy in ranked():
        for task in (None, *glue.scores.tasks):
            curve = glue.curve(strategy, task)
            numbers = (curve.affected, curve.value, curve.low, curve.high, curve.seeds)
            for affected, value, low, high, seeds in zip(*(each.tolist() for each in numbers), strict=True):
                name = glue.study.words(strategy)
                rows.append((name, affected, task or "average", value, low, high, seeds))
    columns = ("strategy", "affected layers", "task", "score", "low", "high", "orders")
    return Table("strategies", "Strategies on GLUE", columns, tuple(rows))


def _strategies(measured: Measurements) -> Table:
    rows: list[tuple[Value, ...]] = []
    for strategy in (each for each in STRATEGIES.values() if each.in_paper and "start" in each.options):
        options: list[tuple[int | None, int | None]] = [(None, None)]
        if "iterations" in strategy.options:
            options = [(count, None) for count in measured.study.iterations if count > 1]
        elif "times" in strategy.options:
            options = [(None, times) for times in measured.study.times]
        for iterations, times in options:
            for task in (None, *measured.scores.tasks):
                curve = measured.curve(strategy.name, task, iterations=iterations, times=times)
                first = (strategy.name, iterations, times)
                scores = (curve.value, curve.low, curve.high, curve.seeds, curve.lowest, curve.highest)
                numbers = [each.tolist() for each in (curve.affected, *scores, curve.depth, curve.cost)]
                rows += [(*first, affected, task or "median", *rest) for affected, *rest in zip(*numbers, strict=True)]
    columns = (
        "strategy", "iterations", "times", "affected layers", "task", "normalised score", "low", "high", "seeds",
        "lowest seed", "highest seed", "depth", "cost",
    )  # fmt: skip
    title = "Normalised score of each strategy by the number of affected layers"
    return Table("strategies", title, columns, tuple(rows))


def _beyond(measured: Measurements) -> Table:
    """Strategies that the paper does not have, and plans of the user's own, normalised."""
    point, draws = measured.scores.over_tasks
    variants = [
        v for v in measured.study.variants if v.strategy in (*beyond_paper(), CUSTOM) and not np.isnan(point[v.column])
    ]
    rows: list[tuple[Value, ...]] = []
    for variant in variants:
        low, high = interval(draws[:, variant.column])
        plan = measured.study.plans[variant.column]
        raw = [result.main.value[variant.column].item() for result in measured.study.shown]
        value = point[variant.column].item()
        rows.append((variant.strategy, variant.label, plan.depth, plan.cost, value, float(low), float(high), *raw))
    raw_columns = tuple(f"{result.task.name} {result.task.metric}" for result in measured.study.shown)
    columns = ("strategy", "plan", "depth", "cost", "median normalised score", "low", "high", *raw_columns)
    title = "Plans beyond the paper, normalised: other strategies, and plans of one's own"
    return Table("beyond-the-paper", title, columns, tuple(rows))


def _latency(measured: Measurements) -> Table:
    """Scores beside how long the plans took, where that was measured."""
    point, draws = measured.scores.over_tasks
    rows: list[tuple[Value, ...]] = []
    for setting, plans in timed(measured).items():
        for each in plans:
            low, high = interval(draws[:, each.column])
            scores = (point[each.column].item(), float(low), float(high))
            times: list[float | None] = []
            for spread in (each.latency.first, each.latency.step if each.latency.told else None):
                times += [None] * 3 if spread is None else [1000 * s for s in (spread.median, spread.low, spread.high)]
            rates = (each.latency.prefill_rate, each.latency.decode_rate)
            memory = each.latency.peak_memory
            on = (None if memory is None else memory / 2**30, setting.sizes, setting.machine)
            plan = measured.study.plans[each.column]
            rows.append((each.strategy, each.label, plan.depth, plan.cost, *scores, *times, *rates, *on))
    columns = (
        "strategy", "plan", "depth", "cost", "median normalised score", "low", "high", "ms to the first token",
        "lower quartile", "upper quartile", "ms of each further token", "lower quartile of further",
        "upper quartile of further", "prompt tokens/s", "new tokens/s", "peak GiB", "sizes", "machine",
    )  # fmt: skip
    return Table("latency", "Scores beside measured latency", columns, tuple(rows))


def _iterations(measured: Measurements) -> Table:
    """Figure 10's map."""
    affected, values = iteration_map(measured)
    known = ~np.isnan(values[0]).all(axis=0)
    rows: tuple[tuple[Value, ...], ...] = ()
    if len(measured.study.iterations) > 1 and known.any():
        shown = values[0][:, known].tolist()
        rows = tuple((count, *row) for count, row in zip(measured.study.iterations, shown, strict=True))
    columns = ("iterations", *(f"{value} layers" for value in affected[known]))
    return Table("iterations", "Median normalised score by iterations and number of parallel layers", columns, rows)


def _finetuned(tuned: Sequence[TunedTask]) -> Table:
    rows: list[tuple[Value, ...]] = []
    for each in tuned:
        for variant in each.variants():
            column, found = variant.column, []
            for results in (each.frozen, each.tuned):
                if results is None or results.status[column] is None:
                    found += [None, None]
                else:
                    found += [results.main.value[column].item(), results.main.stderr[column].item()]
            plan, documents = each.study.plans[column], int(each.tuned.documents[column])
            first = (each.title, variant.strategy, variant.affected, plan.text, documents, each.task.metric)
            rows.append((*first, *found, each.how()))
    columns = (
        "task", "strategy", "affected layers", "plan", "documents", "metric", "as it is", "stderr", "fine-tuned",
        "stderr fine-tuned", "training",
    )  # fmt: skip
    return Table("fine-tuned", "Plans as they are and fine-tuned", columns, tuple(rows))


def _by_state(measured: Measurements) -> Table:
    """Analyses of hidden states along each plan, one row a state or step."""
    rows: list[tuple[Value, ...]] = []
    for analysis in BY_STATE:
        for column, plan in enumerate(measured.study.plans):
            texts = measured.analysed_texts(analysis.name, column)
            for quantity in analysis.quantities:
                found = numbers(measured, analysis.name, column, quantity.place)
                if found is None:
                    continue
                halves = [None] * len(found.value) if found.half is None else found.half.tolist()
                first = (analysis.name, quantity.words, plan.text)
                pairs = zip(found.value.tolist(), halves, strict=True)
                rows += [(*first, place, value, half, texts) for place, (value, half) in enumerate(pairs)]
    columns = ("analysis", "quantity", "plan", "state or step", "value", "half of the 95 % interval", "texts")
    return Table("hidden-states", "Analyses of hidden states, by state or step", columns, tuple(rows))


def _cells(measured: Measurements) -> Table:
    """Everything, a row for each task or group and strategy's plan."""
    study = measured.study
    rows: list[tuple[Value, ...]] = []
    named = {variant.column for variant in study.variants}
    unnamed = [VariantRow(column, "", "") for column in range(len(study.plans)) if column not in named]
    for result in study.shown:
        point, low, high = _normalised(measured, result.task.name)
        for variant in (*study.variants, *unnamed):
            column = variant.column
            if result.status[column] is None:
                continue
            plan = study.plans[column]
            options = (variant.start, variant.seed, variant.iterations, variant.times, variant.layer)
            of_plan = (plan.text, plan.depth, plan.cost, result.status[column], int(result.documents[column]))
            numbers = (result.main.value, result.main.stderr, point, low, high, result.seconds)
            values = [each[column].item() for each in numbers]
            rows.append(
                (result.task.name, variant.strategy, *options, variant.affected, *of_plan, result.task.metric, *values)
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

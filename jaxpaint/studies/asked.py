"""A study asked for in one call, and what came of it: a table, a figure, a report."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import asked_bar
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan
from jaxpaint.results.damage import reading
from jaxpaint.results.group_scores import difference as group_difference
from jaxpaint.results.group_scores import group_scores
from jaxpaint.results.groups import stored as stored_groups
from jaxpaint.results.kinds import preferred
from jaxpaint.results.metrics import MetricRow
from jaxpaint.results.paired import paired_difference
from jaxpaint.studies.run import StudySummary, run_study
from jaxpaint.studies.spec import StudySpec
from jaxpaint.tasks.local_data import Data, data_options
from jaxpaint.tasks.own import OwnTask

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Tasks: TypeAlias = str | OwnTask | Sequence[str | OwnTask]
STORE = "study.sqlite"
COLUMNS = (
    *("plan", "label", "task", "metric", "value", "stderr", "difference", "difference_stderr", "cost", "depth"),
    "documents",
)
# What `study` says by itself.
_OWN = frozenset({"model", "store", "tasks", "plans", "strategies", "data", "limit"})


@dataclass(frozen=True, eq=False)
class Study:
    """Plans on tasks, scored: `store` holds every result, and is gone with the study where none was named."""

    spec: StudySpec
    summary: StudySummary
    model: str
    store: Path
    _temporary: TemporaryDirectory[str] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Study({self.model}: {self.summary})"

    def frame(self) -> pd.DataFrame:
        """The main metric of every plan on every task, a row each: of strategies' plans, then of others, as asked.

        Groups of tasks have rows of their own, beside their members'. The full model comes first, where it is not among
        the plans asked for. `difference` is from the full model, with the standard error of the mean difference of the
        same documents, NaN where a task's score is no mean over them. `cost` and `depth` are in layers. `label` names
        the strategy.
        """
        import pandas as pd

        with reading(self.store) as connection:
            rows = _rows(connection, self.summary, self.spec.plans, [str(task) for task in self.spec.tasks])
        return pd.DataFrame(rows, columns=COLUMNS)

    def plot(self) -> Figure:
        """Score against cost, a panel for each task, with standard errors; the full model's score is the dashed line.

        Points have their plans' names: all of them, where there are few, or the best and the worst at each cost.
        """
        from jaxpaint.studies.scatter import scatter

        return scatter(self.frame(), self.model)

    def report(self, folder: str | Path) -> Path:
        """Writes the report into a folder and returns its page. Raises UserError as `jaxpaint.write_report`."""
        from jaxpaint.report import write_report

        return write_report(self.store, Path(folder))


def study(
    model: Model | str | Path,
    plans: Plan | str | Iterable[Plan | str] = (),
    *,
    tasks: Tasks,
    strategies: str | Sequence[str] = (),
    store: str | Path | None = None,
    data: Data = (),
    limit: float | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Study:
    """Scores the full model, `plans`, and those of `strategies`, on tasks; what plans and prompts share is run once.

    Args:
        model: One that is loaded, or what `jaxpaint.load` takes.
        tasks: lm-eval's, painter-16's, YAML files, or `jaxpaint.multiple_choice`.
        store: Where every result is kept: what is there already is not computed again, and a study that was ended
            goes on. By default in a temporary folder, which is gone with the study.
        data: Local files in place of datasets: {"arc_easy": "arc_easy.jsonl"} or "arc_easy=arc_easy.jsonl".
        limit: Documents per task, or a fraction below 1.
        progress: Whether to show a bar: by default in notebooks and on terminals.
        settings: Others of `jaxpaint.StudySpec`: `starts`, `seeds`, `num_fewshot`, `bos`, `analyses`, …

    Raises:
        PlanError: a plan that cannot be read, or names a layer that the model lacks.
        UserError: a setting that is none or of another kind; as `jaxpaint.run_study`.
    """
    _require_settings(settings)
    temporary = TemporaryDirectory(prefix="jaxpaint-study-") if store is None else None
    source = Source.of_loaded(model) if isinstance(model, Model) else None
    if source is not None:
        for name in settings.keys() & {"dtype", "weights", "revision", "offload", "tensor_parallel", "layer_parallel"}:
            raise UserError(f"{name} is of a model that is to be loaded, and this one is; load it so, or give its name")
        settings |= {"dtype": str(source.dtype), "weights": source.weights}
    spec = StudySpec(
        model=str(source.store if source is not None else model),
        store=Path(temporary.name, STORE) if temporary is not None else store,  # type: ignore[arg-type]
        tasks=tasks,  # type: ignore[arg-type]  # StudySpec converts what people write
        plans=tuple(plans) if isinstance(plans, Iterable) and not isinstance(plans, str) else (plans,),  # type: ignore[arg-type]
        strategies=strategies,  # type: ignore[arg-type]
        data=data_options(data),
        limit=limit,
        **settings,
    )
    if not spec.tasks and not spec.analyses:
        raise UserError("a study needs tasks; give tasks=['arc_easy'], or 'painter_facts' of painter-16")
    with asked_bar(progress, "study") as bar:
        summary = run_study(spec, progress=bar, source=source)
    name = source.loaded.name if source is not None else str(model)
    return Study(spec, summary, name, spec.store, temporary)


def _require_settings(settings: Mapping[str, Any]) -> None:
    known = [setting.name for setting in fields(StudySpec) if setting.name not in _OWN]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *_OWN], n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the settings are {', '.join(known)}"
            raise UserError(f"a study has no setting {name!r}; {hint}")


_CELLS = """
    SELECT cell, task, plan, label, strategy, metric, filter, value, stderr, cost, depth, documents, num_layers, bos,
        settings FROM results WHERE metric = main_metric AND cell IN (SELECT value FROM json_each(?)) ORDER BY cell
"""
_DOCUMENTS = "SELECT document, value FROM document_results WHERE cell = ? AND metric = ? AND filter = ?"


def _rows(
    connection: sqlite3.Connection, summary: StudySummary, plans: Sequence[str], tasks: Sequence[str]
) -> list[tuple[Any, ...]]:
    cells = summary.in_store
    found: dict[int, dict[str, Any]] = {}
    cursor = connection.execute(_CELLS, (json.dumps(list(cells)),))
    names = [column[0] for column in cursor.description]
    for values in cursor.fetchall():
        row = dict(zip(names, values, strict=True))
        known = found.setdefault(row["cell"], row)
        if row["filter"] == preferred({row["filter"], known["filter"]}):
            found[row["cell"]] = row
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _of_groups(connection, summary.groups, found):
        by_task[row["task"]].append(row)
    for cell in cells:
        if cell in found:
            by_task[found[cell]["task"]].append(found[cell])
    # Members of groups, which nobody named, stay as they are.
    ordered = sorted(by_task, key=lambda task: tasks.index(task) if task in tasks else len(tasks))
    return [line for task in ordered for line in _of_task(connection, by_task[task], plans)]


def _of_groups(
    connection: sqlite3.Connection, groups: Sequence[int], found: Mapping[int, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Of each group and plan a row as those of cells, with what it is made of."""
    chosen = (each for each in stored_groups(connection) if each.id in groups)
    for scores in filter(None, (group_scores(connection, each) for each in chosen)):
        for cell in scores.cells:
            if cell.cells[0] in found:
                row = scores.main(cell) or MetricRow(scores.metric, scores.filter, None)
                of_group = {"task": scores.name, "documents": cell.documents, "of_group": (scores, cell, row)}
                yield {**found[cell.cells[0]], **of_group, **asdict(row)}


def _of_task(connection: sqlite3.Connection, rows: list[dict[str, Any]], asked: Sequence[str]) -> list[tuple[Any, ...]]:
    whole = str(Plan.of(range(rows[0]["num_layers"])))
    full = next((row for row in rows if row["plan"] == whole), None)
    places = {plan: place for place, plan in enumerate(asked)}
    # Plans of strategies come before one's own, as they were registered; the sort is stable.
    rows = sorted(rows, key=lambda row: places.get(row["plan"], -1))
    own = _documents(connection, full) if full and "of_group" not in full else {}
    lines = []
    for row in rows:
        if "of_group" in row:
            difference, error = _group_difference(connection, row, full)
        else:
            difference, error = _difference(row, full, own, _documents(connection, row))
        value, stderr = (np.nan if row[name] is None else row[name] for name in ("value", "stderr"))
        label = row["plan"] if row["plan"] in places else row["label"]
        said = row["plan"], label, row["task"], row["metric"], value, stderr, difference, error
        lines.append((*said, row["cost"], row["depth"], row["documents"]))
    return lines


def _documents(connection: sqlite3.Connection, row: Mapping[str, Any]) -> dict[int, float]:
    return dict(connection.execute(_DOCUMENTS, (row["cell"], row["metric"], row["filter"])).fetchall())


def _difference(
    row: Mapping[str, Any], full: Mapping[str, Any] | None, of_full: Mapping[int, float], own: Mapping[int, float]
) -> tuple[float, float]:
    """From the full model, and the standard error of that."""
    if full is None or row["value"] is None or full["value"] is None:
        return np.nan, np.nan
    difference = row["value"] - full["value"]
    if row is full or own.keys() != of_full.keys() or len(own) < 2 or None in {*own.values(), *of_full.values()}:
        return difference, 0.0 if row is full else np.nan
    pairs = list(own.values()), [of_full[document] for document in own]
    difference, error = paired_difference(row["value"], full["value"], *pairs)
    return difference, np.nan if error is None else error


def _group_difference(
    connection: sqlite3.Connection, row: Mapping[str, Any], full: Mapping[str, Any] | None
) -> tuple[float, float]:
    """As `_difference`, of a group."""
    if full is None or row["value"] is None or full["value"] is None:
        return np.nan, np.nan
    if row is full:
        return 0.0, 0.0
    scores, cell, metric = row["of_group"]
    difference, error = group_difference(connection, scores, cell, full["of_group"][1], metric)
    return np.nan if difference is None else difference, np.nan if error is None else error

"""What several plans scored, as `jaxpaint eval` prints it: of each task a line a plan, beside the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxpaint.base.shown import visible_name
from jaxpaint.cli.columns import in_columns
from jaxpaint.results.frames import shown
from jaxpaint.results.kinds import preferred

USUAL = ("acc_norm", "acc")  # of a group of tasks, which has no main metric of its own


def compared_lines(found: Sequence[Mapping[str, Any]], main: Mapping[str, str]) -> Iterator[str]:
    """Of each task and group the score of every plan, its main metric of `main`, and the difference from the first's.

    `found` is of `jaxpaint.tasks.evaluation.evaluate_plans`.
    """
    of_tasks = [each.get("results", {}) for each in found]
    for task in dict.fromkeys(name for results in of_tasks for name in results):
        metric, name = _main(of_tasks, task, main.get(task))
        rows = [[f"{visible_name(task)}, {metric}", "cost", "score", "less the first"]]
        for each, results in zip(found, of_tasks, strict=True):
            own, less = results.get(task, {}), each.get("differences", {}).get(task, {})
            config = each["config"]
            difference = "" if each is found[0] else _number(less, metric, name, diff=True)
            rows.append([config["plan"], f"{config['plan_cost']:g}", _number(own, metric, name), difference])
        yield from ["", *map(str.rstrip, in_columns(rows))]
    yield ""
    yield "less the first: on the same documents, ± the standard error of that"


def _main(of_tasks: Sequence[Mapping[str, Any]], task: str, metric: str | None) -> tuple[str, str]:
    """The metric that is shown, and of its filters that which counts."""
    from jaxpaint.tasks.paired import metric_values

    there = [key for results in of_tasks for key in metric_values(results.get(task, {}))]
    names = [name for name, _ in there]
    chosen = next((name for name in (metric, *USUAL) if name in names), names[0] if names else "")
    return chosen, preferred({name for each, name in there if each == chosen})


def _number(results: Mapping[str, Any], metric: str, name: str, *, diff: bool = False) -> str:
    value, stderr = results.get(f"{metric},{name}"), results.get(f"{metric}_stderr,{name}")
    stderr = stderr if isinstance(stderr, float) else None
    row = {"value": value, "stderr": stderr, "difference": value, "difference_stderr": stderr, "status": None}
    return shown(row, diff=diff)

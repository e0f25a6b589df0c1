"""What a run measured, as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from jaxpaint.birth.run import Outcome
from jaxpaint.birth.train import Trained
from jaxpaint.birth.verdicts import shown

MARKS = {"holds": "+", "in part": "~", "does not hold": "-", "cannot be told": "?"}
ENDS = {
    **{"accuracy": "accuracy", "output": "R(W_O2)", "trigger": "R(W_K2)", "previous_token": "R(W_K1)"},
    "output_norm": "|W_O2|",
}
BEHAVIOUR = {"output_accuracy": "all outputs", "looks_back": "looks back", "hits": "hits", "copies": "copies"}


def summary(outcome: Outcome, width: int = 80) -> str:
    """The findings and where every arm ended, in lines of at most `width` columns."""
    lines = []
    for finding in outcome.findings:
        lines += textwrap.wrap(
            f"{finding.claim}: {finding.verdict}",
            width,
            initial_indent=f"{MARKS[finding.verdict]} ",
            subsequent_indent="  ",
        )
        lines += textwrap.wrap(finding.evidence, width, initial_indent="    ", subsequent_indent="    ")
    lines += ["", "at the end (mean and two standard errors over seeds)", *_aligned(end_rows(outcome))]
    lines += [
        "",
        "right predictions of all outputs, and what attention finds, at the end",
        *_aligned(behaviour_rows(outcome)),
    ]
    written = f" (written down: b {outcome.settings.ideal_b:g})" if outcome.written else ""
    lines += ["", f"in-context accuracy under plans{written}", *_aligned(plan_rows(outcome))]
    return "\n".join(lines)


def end_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each name of arms: accuracy, recalls, norm."""
    return _rows_of(outcome, ENDS)


def behaviour_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each name of arms: accuracy of all outputs, and the probes on data."""
    return _rows_of(outcome, BEHAVIOUR)


def _rows_of(outcome: Outcome, columns: dict[str, str]) -> list[list[str]]:
    """Mean and two standard errors at the end, of what this model has; of a norm the mean."""
    known = {name: heading for name, heading in columns.items() if outcome.runs.has(name)}
    rows = [["arm", *known.values()]]
    for name in names(outcome):
        ends = {column: outcome.runs.measured(name, column)[:, -1] for column in known}
        rows.append([name, *(f"{v.mean():.1f}" if column == "output_norm" else shown(v) for column, v in ends.items())])
    return rows


def plan_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each plan: the written-down head at each gamma, the unfrozen arm before, during and after training,
    and the arm trained under the looped plan; as far as there are such.
    """
    from jaxpaint.birth.settings import UNFROZEN

    runs, settings = outcome.runs, outcome.settings
    middle = len(runs.at) // 2
    gammas = [f"gamma {gamma:g}" for gamma in settings.ideal_gamma] if outcome.written else []
    has_control = settings.control in runs
    steps = [f"step {runs.at[record]}" for record in (0, middle, -1)]
    rows = [["plan", *gammas, *steps, *["control"] * has_control]]
    for number, plan in enumerate(settings.plans):
        curve = runs.watched(UNFROZEN, plan).mean(axis=0)
        values = [*outcome.written.accuracy[:, number]] if outcome.written else []
        values += [curve[0], curve[middle], curve[-1]]
        values += [runs.watched(settings.control, plan)[:, -1].mean()] if has_control else []
        rows.append([plan, *(f"{value:.2f}" for value in values)])
    return rows


def names(outcome: Outcome) -> list[str]:
    """Of arms, each once."""
    return list(dict.fromkeys(arm.name for group in outcome.runs.groups.values() for arm in group.arms))


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield "  ".join(
            [first.ljust(widths[0]), *(each.rjust(w) for each, w in zip(others, widths[1:], strict=True))]
        ).rstrip()


def steps_csv(outcome: Outcome) -> str:
    """Every step of every arm on its own batch."""
    return _csv(
        row
        for group in outcome.runs.groups.values()
        for row in _rows(group, group.steps, range(1, 1 + group.training.steps))
    )


def measured_csv(outcome: Outcome) -> str:
    """Every measurement of every arm: on the test texts, of the weights, and under the watched plans."""

    def all_rows() -> Iterator[dict[str, Any]]:
        for group in outcome.runs.groups.values():
            plans = {f"accuracy under {plan}": curve for plan, curve in group.watched.items()}
            yield from _rows(group, group.measured | plans, group.at)

    return _csv(all_rows())


def _rows(group: Trained, curves: dict[str, Any], at: Iterable[int]) -> Iterator[dict[str, Any]]:
    at = list(at)
    for number, arm in enumerate(group.arms):
        for record, step in enumerate(at):
            values = {name: f"{curve[record, number]:.6g}" for name, curve in curves.items()}
            yield {"arm": arm.name, "seed": arm.seed, "step": step} | values


def _csv(rows: Iterator[dict[str, Any]]) -> str:
    text, first = io.StringIO(), next(rows)
    writer = csv.DictWriter(text, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
    return text.getvalue()


def as_json(outcome: Outcome) -> str:
    """Settings, findings and recalls of the written-down head."""
    written = outcome.written
    told = {
        "settings": asdict(outcome.settings),
        "seconds": round(outcome.seconds),
        "findings": [asdict(finding) for finding in outcome.findings],
        "written down": written and {"recall": written.recall, "accuracy": written.accuracy.tolist()},
        "at the end": end_rows(outcome),
        "behaviour at the end": behaviour_rows(outcome),
        "plans": plan_rows(outcome),
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"

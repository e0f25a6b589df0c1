"""The page's first part, "Plans, best first": what its table, its figures to explore and its documents are made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import entry
from jaxpaint.report.data import Study
from jaxpaint.report.figures.plans import maps_of
from jaxpaint.report.figures.style import strategy_look
from jaxpaint.report.paired import Number, PlanScore, PlanScores
from jaxpaint.report.parts import Listing, Picture
from jaxpaint.report.strip import Strip, strip
from jaxpaint.results.document_texts import DocumentText

MOST_ROWS = 500
MOST_DOCUMENTS = 100  # of one plan and task, each way
# Vega's names for matplotlib's markers.
_SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "d": "diamond",
    "P": "cross", "X": "cross", "<": "triangle-left", ">": "triangle-right", "*": "triangle", "H": "circle",
}  # fmt: skip


@dataclass(frozen=True)
class PlanLine:
    """A row of the page's table: texts, but for `order`, by which its columns are sorted."""

    anchor: str
    name: str
    text: str
    strip: Strip | None
    is_full: bool
    cells: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class PlansBox:
    """A study's plans as the page shows them. `data` is what the page's script reads; `rest` counts plans left away.

    The last `tasks` columns are those of the tasks, where there are several. `flipped` is the table of the documents
    beside the page, empty where no plan flips any.
    """

    columns: tuple[tuple[str, str], ...]
    lines: tuple[PlanLine, ...]
    rest: int
    notes: tuple[str, ...]
    data: Mapping[str, Any]
    listing: Listing
    cost: Picture | None
    maps: tuple[Picture, ...]
    tasks: int
    flipped: str

    @property
    def several(self) -> bool:
        """Whether there is more than one task."""
        return self.tasks > 1

    @property
    def is_explored(self) -> bool:
        """Whether there is a figure to explore."""
        return self.cost is not None or bool(self.maps)


def plans_box(
    scores: PlanScores, listing: Listing, cost: Picture | None, maps: Sequence[Picture], prefix: str, flipped: str = ""
) -> PlansBox:
    """Of a study that has scores."""
    shown = scores.rows[:MOST_ROWS]
    timed = any(math.isfinite(row.milliseconds) for row in shown)
    several = len(scores.results) > 1
    columns = [("cost", "layer applications"), ("depth", "layers on the longest chain")]
    columns += [("ms", f"milliseconds to the first new token: {scores.machine}")] * timed
    beside = scores.results[scores.beside]
    tasks = [(result.task.name, f"{result.task.metric}, with its 95 % interval") for result in beside]
    average = "average", scores.of_average
    if beside != scores.results:
        average = scores.of_average, f"{scores.results[0].task.metric} of the group, with its 95 % interval"
    columns += [average] if several else tasks
    columns += [("less full", f"the score ({scores.of_average}) less the full model's on the same documents")]
    columns += [("p (Holm)", f"of no difference, corrected for {_tested(scores)} plans")]
    columns += [("flipped", "documents that only the plan gets right, and that only the full model gets right")]
    columns += tasks if several else []
    return PlansBox(
        tuple(columns),
        tuple(_line(row, scores, timed, several, prefix) for row in shown),
        len(scores.rows) - len(shown),
        tuple(_notes(scores)),
        _data(scores, shown, prefix),
        listing,
        cost,
        tuple(maps),
        len(beside),
        flipped,
    )


def anchor(row: PlanScore, prefix: str) -> str:
    """Of a plan's row on the page."""
    return "-".join(part for part in ("plan", prefix, str(row.column)) if part)


def interval_text(number: Number, sign: str = "") -> tuple[str, str]:
    """A value and its interval, in words."""
    if math.isnan(number.value):
        return "", ""
    if math.isnan(number.low):
        return f"{number.value:{sign}z.3f}", ""
    return f"{number.value:{sign}z.3f}", f"{number.low:{sign}z.3f} to {number.high:{sign}z.3f}"


def p_text(p: float) -> str:
    """A p as people read it."""
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _tested(scores: PlanScores) -> int:
    return sum(not math.isnan(row.p) for row in scores.rows)


def _line(row: PlanScore, scores: PlanScores, timed: bool, several: bool, prefix: str) -> PlanLine:
    study = scores.study
    plan = study.plans[row.column]
    of_tasks = [(*interval_text(number), number.value) for number in row.tasks[scores.beside]]
    cells = [(f"{plan.cost:g}", "", float(plan.cost)), (f"{plan.depth:g}", "", float(plan.depth))]
    if timed:
        cells.append(("" if math.isnan(row.milliseconds) else f"{row.milliseconds:.3g}", "", row.milliseconds))
    cells += [(*interval_text(row.average), row.average.value)] if several else of_tasks
    cells.append((*interval_text(row.difference, "+"), row.difference.value))
    cells.append((p_text(row.p), "", row.p))
    lost, gained = flipped(row)
    known = any(flips is not None for flips in row.flips)
    cells.append((f"+{gained} −{lost}" if known else "", "", float(gained - lost) if known else math.nan))
    cells += of_tasks if several else []
    is_full = row.column == study.full
    name = "full model" if is_full else row.name
    drawn = strip(Plan.parse(plan.text), study.model.num_layers)
    return PlanLine(anchor(row, prefix), name, "" if name == plan.text else plan.text, drawn, is_full, tuple(cells))


def flipped(row: PlanScore) -> tuple[int, int]:
    """How many documents, of all tasks, only the full model gets right, and how many only the plan."""
    known = [flips for flips in row.flips if flips is not None]
    return sum(len(flips.lost) for flips in known), sum(len(flips.gained) for flips in known)


def _notes(scores: PlanScores) -> list[str]:
    found = []
    if len(scores.averaged) > 1:
        found.append("The average is that of the tasks' metrics as they are, not normalised.")
    study = scores.study
    if left := [result.task.name for result in study.counted if result.task.name not in scores.averaged]:
        found.append(f"Not in the average, because lower is better: {', '.join(left)}.")
    if groups := [result.task.name for result in study.counted if result.group is not None]:
        found.append(f"{', '.join(groups)}: a group, which counts in place of its tasks, whose scores stand beside it.")
    if _tested(scores):
        found.append(
            "Less full: the paired difference from the full model, document by document, with its 95 % interval by "
            f"bootstrap. p: of no difference, by sign flips (McNemar's test), after Holm over {_tested(scores)} plans. "
            "Flipped: documents that only the plan gets right (+), and that only the full model does (−)."
        )
    if scores.machine:
        found.append(f"ms: to the first new token; {scores.machine}.")
    return found


def _data(scores: PlanScores, shown: Sequence[PlanScore], prefix: str) -> Mapping[str, Any]:
    study = scores.study
    strategies = dict.fromkeys(row.strategy for row in shown)
    results = scores.results[scores.beside]
    plans = []
    for row in shown:
        plan = study.plans[row.column]
        plans.append(
            {
                "id": anchor(row, prefix),
                "plan": "full model" if row.column == study.full else row.name,
                "text": plan.text,
                "strategy": _words(row.strategy),
                "cost": plan.cost,
                "depth": plan.depth,
                "ms": _finite(row.milliseconds),
                "scores": [_triple(number) for number in (row.average, *row.tasks[scores.beside])],
                "difference": _triple(row.difference),
                "p": p_text(row.p),
                "flips": [
                    None
                    if flips is None
                    else [
                        len(flips.gained),
                        _shown(flips.gained),
                        len(flips.lost),
                        _shown(flips.lost),
                    ]
                    for flips in row.flips[scores.beside]
                ],
            }
        )
    maps = [
        {
            "kind": kind,
            "cells": [[place, window.first, window.width] for place, window in windows.items() if place < len(shown)],
        }
        for kind, windows in maps_of(scores).items()
    ]
    looks = {_words(name): strategy_look(name) for name in strategies}
    return {
        "average": scores.of_average,
        "tasks": [result.task.name for result in results],
        "texts": [_texts(scores, shown, scores.results.index(result)) for result in results],
        "plans": plans,
        "maps": maps,
        "looks": {name: [colour, _SHAPES.get(marker, "circle")] for name, (colour, marker, _) in looks.items()},
        "full": next((place for place, row in enumerate(shown) if row.column == study.full), None),
    }


def _shown(documents: Sequence[int]) -> Sequence[int]:
    return documents[:MOST_DOCUMENTS]


def _texts(scores: PlanScores, shown: Sequence[PlanScore], task: int) -> Mapping[int, DocumentText]:
    """What the store has of the documents that any plan's list shows of a task, each once."""
    known, found = scores.results[task].texts, set()
    for row in shown:
        if (flips := row.flips[task]) is not None:
            found |= {*_shown(flips.gained), *_shown(flips.lost)}
    return {number: known[number] for number in sorted(found & known.keys())}


def _words(strategy: str) -> str:
    return "full model" if strategy == "full" else entry(strategy).words


def _triple(number: Number) -> list[float | None]:
    return [_finite(each) for each in (number.value, number.low, number.high)]


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def facts(study: Study) -> tuple[tuple[str, str], ...]:
    """What a study is, at the head of its part: model, date, command, documents, device and versions."""
    made = study.provenance
    model = study.model
    days = made.first_day if made.first_day == made.last_day else f"{made.first_day} to {made.last_day}"
    tasks: dict[int, list[str]] = defaultdict(list)
    for result in study.results:
        tasks[int(result.documents.max(initial=0))].append(result.task.name)
    documents = "; ".join(
        f"{most} of {'each of ' * (len(names) > 1)}{', '.join(names)}" for most, names in tasks.items()
    )
    found = (
        ("Model", f"{model.source or model.name}, {model.num_layers} layers, {model.dtype}"),
        ("Date", days),
        ("Command", "\n".join(made.commands[-3:])),
        ("Documents", documents),
        ("Device", "; ".join(made.devices)),
        ("Versions", "; ".join(made.versions)),
    )
    return tuple((name, value) for name, value in found if value)

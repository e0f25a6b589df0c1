"""The best plan per document, of a store alone: what the full model gets wrong and some other plan gets right.

CoLa's question ("Skip a Layer or Loop it?", arXiv 2507.07996), which searched a plan for each document. Of many plans
some are right by luck, so the share that luck would give stands beside.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.plans.plan import Plan
from jaxpaint.results import reading
from jaxpaint.results.group_scores import GroupScores, all_scores, parts
from jaxpaint.results.reading import ModelRow, TaskRow

Right = Mapping[int, bool]
"""By document: whether a plan gets it right."""


@dataclass(frozen=True)
class PerDocument:
    """Of one task's `documents`: how the full model and the `plans` beside it do, each counted on the same documents.

    `wrong` are the full model's, `rescued` those of them that some plan gets right, and `shorter` of its right ones
    those that some plan of less cost gets right, too. `best` is the score of the best one plan, the full model among
    them. As shares of `wrong`, `anywhere` is what would be rescued did each plan keep its score and its right answers
    fell on any documents (the mean over permutations of them), `guessed` did each plan guess; None where guessing is
    not known.
    """

    documents: int
    plans: int
    wrong: int
    rescued: int
    shorter: int
    best: float
    anywhere: float
    guessed: float | None

    @property
    def full(self) -> float:
        """The full model's score."""
        return 1 - self.wrong / self.documents

    @property
    def oracle(self) -> float:
        """The score of the best plan of each document, known beforehand."""
        return 1 - (self.wrong - self.rescued) / self.documents


def per_document(
    full: Right, plans: Sequence[tuple[int, Right]], cost: int, chance: float | None
) -> PerDocument | None:
    """Of the full model, and of other plans with their costs; `cost` is the full model's, `chance` that of a guess.

    Plans that were not asked of all of its documents are left out; None where no other is left.
    """
    plans = [(own, right) for own, right in plans if full.keys() <= right.keys()]
    if not full or not plans:
        return None
    scores = [sum(right[document] for document in full) / len(full) for _, right in plans]
    wrong = [document for document, is_right in full.items() if not is_right]
    shorter = [right for own, right in plans if own < cost]
    return PerDocument(
        documents=len(full),
        plans=len(plans),
        wrong=len(wrong),
        rescued=sum(any(right[document] for _, right in plans) for document in wrong),
        shorter=sum(is_right and any(right[document] for right in shorter) for document, is_right in full.items()),
        best=max(*scores, 1 - len(wrong) / len(full)),
        # A permuted plan is right on a document as often as on all, whatever the others are.
        anywhere=1 - math.prod(1 - score for score in scores),
        guessed=None if chance is None else 1 - (1 - chance) ** len(plans),
    )


@dataclass(frozen=True)
class Answers:
    """What is right of a task, under the full model and under other plans by their ids; `chance` is a guess's score."""

    full: Right
    others: Mapping[int, Right]
    chance: float | None


def together(tasks: Sequence[Answers], costs: Mapping[int, int], cost: int) -> PerDocument | None:
    """As `per_document`, of several tasks' documents: the plans, of these `costs`, are those asked of all of them.

    `best` is of one plan for all tasks; right answers fall on any documents of their own task in `anywhere`, and
    `guessed` is known where it is of each.
    """
    plans = [plan for plan in costs if all(own.full.keys() <= own.others.get(plan, {}).keys() for own in tasks)]
    members = []
    for own in tasks:
        found = per_document(own.full, [(costs[plan], own.others[plan]) for plan in plans], cost, own.chance)
        if found is None:
            return None
        members.append(found)
    right = [sum(own.others[plan][document] for own in tasks for document in own.full) for plan in plans]
    documents, wrong = (sum(getattr(each, name) for each in members) for name in ("documents", "wrong"))
    weights = [each.wrong if wrong else each.documents for each in members]
    anywhere, guessed = [each.anywhere for each in members], [each.guessed for each in members]
    return PerDocument(
        documents=documents,
        plans=len(plans),
        wrong=wrong,
        rescued=sum(each.rescued for each in members),
        shorter=sum(each.shorter for each in members),
        best=max(*right, documents - wrong) / documents,
        anywhere=_mean(anywhere, weights),
        guessed=None if None in guessed else _mean(guessed, weights),  # type: ignore[arg-type]
    )


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def per_document_text(store: Path) -> str:
    """Lines for reading: each model's tasks whose documents are right or wrong.

    Raises UserError for a store that cannot be read.
    """
    from jaxpaint.results.damage import reading as opened

    with opened(store) as connection:
        return _text(connection)


def _text(connection: sqlite3.Connection) -> str:
    models, blocks, has_groups = reading.models(connection), [], False
    for model, bos in reading.studies(connection):
        groups = all_scores(connection, model, bos)
        if rows := _rows(connection, models[model], bos, groups):
            widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
            lines = [_beside(row, widths) for row in (_HEAD, *rows)]
            blocks.append("\n".join([f"{visible_name(models[model].name)}, bos {bos}", "", *lines]))
            has_groups |= bool(groups)
    if not blocks:
        return "no task's documents are right or wrong under the full model and another plan\n"
    return "\n\n".join([*blocks, _LEGEND + (_OF_GROUPS if has_groups else "")]) + "\n"


def _beside(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.rjust(width) for text, width in zip(row, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others])


_HEAD = ("task", "plans", "full", "best", "oracle", "rescued", "share", "anywhere", "guessed", "shorter")
_OF_GROUPS = """
a group of tasks: all documents of those of them that have its metric, each the same, best being one plan for all;
  where a group weighs its tasks equally, its score is another."""
_LEGEND = """\
full, best: the score of the full model, and of the best one plan. oracle: that of the best plan for each document,
  which nobody knows beforehand. rescued, share: of the full model's wrong answers, those that some other plan gets
  right.
anywhere: the share, did each plan's right answers fall on any documents; guessed: did every plan guess. Plans that
  are alike are right together, so luck gives less than these; but a share that is no larger is no sign that
  documents need plans of their own.
shorter: of the full model's right answers, those that a plan of less cost gets right, too."""


def _rows(
    connection: sqlite3.Connection, model: ModelRow, bos: str, groups: Sequence[GroupScores]
) -> list[tuple[str, ...]]:
    """Of the groups, and then of the tasks."""
    plans = reading.plans(connection, model.id, bos)
    whole = str(Plan.of(range(model.num_layers)))
    full = next((plan for plan in plans if plan.text == whole), None)
    if full is None:
        return []
    costs = {plan.id: plan.cost for plan in plans if plan is not full}
    tasks = {task.id: task for task in reading.tasks(connection, model.id, bos)}
    asked = []
    for row, scores in zip(reading.named([each.task for each in groups]), groups, strict=True):
        of_group = []
        for task in parts(connection, scores):
            chance = None if row.chance is None else tasks[task].chance
            of_group.append(replace(tasks[task], metric=row.metric, filter=row.filter, chance=chance))
        asked.append((f"{row.name}, {count(len(of_group), 'task')}", of_group))
    asked += [(task.name, [task]) for task in tasks.values()]
    rows = []
    for name, members in asked:
        answers = [found for task in members if (found := _answers(connection, model.id, task, full.id))]
        if len(answers) == len(members) and (joined := together(answers, costs, full.cost)):
            rows.append(_row(name, joined))
    return rows


def _answers(connection: sqlite3.Connection, model: int, task: TaskRow, full: int) -> Answers | None:
    """None where documents are not right or wrong, or the full model was not asked."""
    right: dict[int, dict[int, bool]] = {}
    for plan, document, value in reading.document_scores(connection, model, task):
        if value not in (0, 1):
            return None
        right.setdefault(plan, {})[document] = value == 1
    own = right.pop(full, None)
    return None if own is None else Answers(own, right, task.chance)


def _row(name: str, found: PerDocument) -> tuple[str, ...]:
    share = found.rescued / found.wrong if found.wrong else None
    shares = [_share(share), _share(found.anywhere), _share(found.guessed)]
    scores = [f"{score:.3f}" for score in (found.full, found.best, found.oracle)]
    kept = f"{found.shorter} of {found.documents - found.wrong}"
    named = f"{visible_name(name)}, n={found.documents}"
    return named, str(found.plans), *scores, f"{found.rescued} of {found.wrong}", *shares, kept


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"

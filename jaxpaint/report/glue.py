"""The GLUE results of a store apart from its language-model benchmarks: as they are, averaged over tasks, in words."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from jaxpaint.plans.strategies import ranked
from jaxpaint.report.curves import Curve, curve
from jaxpaint.report.data import Study, TaskResults, model_facts
from jaxpaint.report.normalise import Scores, as_they_are, document_means
from jaxpaint.report.paired import PlanScores, plan_scores
from jaxpaint.results.kinds import FROZEN, MAJORITY, glue_training
from jaxpaint.results.reading import NOT_FINITE, RUNNING

NEAR_MAJORITY = 0.05
"""A full model that beats the most frequent class by less shows little of what strategies lose."""


@dataclass(frozen=True, eq=False)
class GlueStudy:
    """One encoder's results under one `training`, the settings of a GLUE study, once for each GLUE task."""

    study: Study
    training: Mapping[str, Any]

    @property
    def frozen(self) -> bool:
        """Whether only classifiers were trained, and not the encoder under every plan."""
        return self.training[FROZEN]

    @property
    def kind(self) -> str:
        """In words."""
        return "frozen" if self.frozen else "fine-tuned"

    @cached_property
    def scores(self) -> Scores:
        """Of the tasks on which the full model has a score."""
        kept = [result for result in self.study.results if not np.isnan(self.study.full_score(result))]
        return as_they_are(kept, "glue")

    @cached_property
    def plans(self) -> PlanScores:
        """Every plan beside the full model, best first."""
        return plan_scores(self.study, document_means(self.study))

    def majority(self, result: TaskResults) -> float:
        """The score of the most frequent training class as the answer to every example; 0 for a correlation."""
        column = self.study.full
        return float(result.metrics[MAJORITY].value[column]) if MAJORITY in result.metrics else float("nan")

    def averages(self) -> tuple[float, float]:
        """Of the full model and of the majority, over the tasks of `scores`."""
        kept = [result for result in self.study.results if result.task.name in self.scores.tasks]
        full, majority = (np.mean([of(result) for result in kept]) for of in (self.study.full_score, self.majority))
        return float(full), float(majority)

    def curve(self, strategy: str, task: str | None = None) -> Curve:
        """A strategy's scores on a task, or their average, over the number of affected layers."""
        return curve(self.study, self.scores, strategy, task=task)

    def curves(self) -> dict[str, Curve]:
        """The averages of the paper's strategies that have data."""
        found = {strategy: self.curve(strategy) for strategy in ranked()}
        return {strategy: each for strategy, each in found.items() if each}


def split(studies: Sequence[Study]) -> tuple[tuple[Study, ...], tuple[GlueStudy, ...]]:
    """Studies without their GLUE results, where anything else is in them, and the GLUE results by kind and settings."""
    others, found = [], []
    for study in studies:
        groups: dict[str, list[TaskResults]] = defaultdict(list)
        for result in study.results:
            groups[_how(result)].append(result)
        rest = tuple(groups.pop("", ()))
        if rest or study.analyses or study.flows:
            others.append(replace(study, results=rest))
        for how, results in sorted(groups.items()):
            for together in _once_each(results):
                found.append(GlueStudy(replace(study, results=together, analyses=()), json.loads(how)))
    return tuple(others), tuple(found)


def _how(result: TaskResults) -> str:
    """A GLUE result's settings but for its examples, as JSON; empty for other tasks."""
    training = glue_training(result.task.settings)
    return "" if training is None else json.dumps(training, sort_keys=True)


def _once_each(results: Sequence[TaskResults]) -> Iterator[tuple[TaskResults, ...]]:
    """The latest results of every task; then those before them, which were trained on other examples, and so on.

    No task counts twice in an average.
    """
    by_task: dict[str, list[TaskResults]] = defaultdict(list)
    for result in results:
        task = replace(result.task, name=result.task.benchmark)  # `rte`, and not `rte #2`
        by_task[task.benchmark].append(replace(result, task=task))
    for same in by_task.values():
        same.sort(key=lambda result: -result.task.id)
    for together in zip_longest(*by_task.values()):
        yield tuple(result for result in together if result is not None)


def titles(glue: Sequence[GlueStudy]) -> list[str]:
    """Numbered where the same encoder was trained with other settings, or on other examples."""
    names = [f"{each.study.model.name}, GLUE {each.kind}" for each in glue]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def notes(glue: GlueStudy) -> list[str]:
    """What a reader must know before trusting the figures."""
    scores, counts = glue.scores, glue.study.statuses()
    found = ["Scores are as GLUE has them, not normalised, as in the paper; the average is over the tasks shown."]
    missing = [result.task.name for result in glue.study.results if result.task.name not in scores.tasks]
    if missing:
        found.append(f"Left out, because the full model has no result there: {', '.join(missing)}.")
    full, majority = glue.averages()
    if full - majority < NEAR_MAJORITY:
        found.append(
            f"The full model's average of {full:.3f} is {'hardly' if full > majority else 'not'} above that of the "
            f"most frequent class, {majority:.3f}: what a strategy loses can hardly be seen."
        )
    sizes = {result.task.name: result.documents[result.documents > 0] for result in glue.study.results}
    uneven = [task for task, documents in sizes.items() if len(set(documents.tolist())) > 1]
    if uneven:
        found.append(f"Some plans were scored on fewer examples than others: {', '.join(uneven)}.")
    for count, rest in (
        (counts[NOT_FINITE], "not finite (logits overflowed): shown as missing"),
        (counts[RUNNING], "not finished: the report shows what there is"),
    ):
        if count:
            found.append(f"{count} of {counts.total()} results {'is' if count == 1 else 'are'} {rest}.")
    return found


def facts(glue: GlueStudy) -> tuple[tuple[str, str], ...]:
    """What was measured, by name."""
    study = glue.study
    tasks = [f"{result.task.name} ({int(result.documents.max())} examples)" for result in study.results]
    cells = [f"{count} {status}" for status, count in sorted(study.statuses().items())]
    asked = {column for result in study.results for column, status in enumerate(result.status) if status}
    return (
        *model_facts(study.model),
        ("Tasks", "; ".join(tasks)),
        ("Training", _training(glue.training)),
        ("Plans", str(len(asked))),
        ("Results", "; ".join(cells)),
        ("Fingerprint", study.model.fingerprint[:16]),
    )


def _training(settings: Mapping[str, Any]) -> str:
    flat = {
        name: value
        for key, group in settings.items()
        for name, value in (group.items() if isinstance(group, Mapping) else [(key, group)])
    }
    return ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in sorted(flat.items()))


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

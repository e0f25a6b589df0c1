"""Fine-tuned results of a store apart from those of the models as they are, and side by side with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxpaint.plans.strategies import ranked
from jaxpaint.report.bootstrap import DRAWS, generator
from jaxpaint.report.curves import Curve, curve
from jaxpaint.report.data import Study, TaskResults
from jaxpaint.report.measurements import Measurements
from jaxpaint.results.kinds import is_finetuned, split_finetuned
from jaxpaint.results.reading import TaskRow, VariantRow


@dataclass(frozen=True, eq=False)
class RawScores:
    """Scores of every plan P on one task as they are: `point` is float64 [P], `draws` [DRAWS, P].

    Draws are normal around the point with the stored standard error.
    """

    point: np.ndarray
    draws: np.ndarray

    @classmethod
    def of_task(cls, results: TaskResults) -> RawScores:
        """Of a task's main metric; the draws of a plan depend on the task alone."""
        noise = generator("fine-tuned", results.task.benchmark).standard_normal((DRAWS, 1))
        point = results.main.value
        return cls(point, point + noise * np.nan_to_num(results.main.stderr))

    def of(self, task: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Point and draws; there is one task."""
        return self.point, self.draws


@dataclass(frozen=True, eq=False)
class TunedTask:
    """A task's results after fine-tuning with each plan in place, and those of the model as it is.

    `frozen` is None where the store has none under the same settings. `training` says how the model was trained;
    `title` tells the task from the study's other fine-tuned ones.
    """

    study: Study
    tuned: TaskResults
    frozen: TaskResults | None
    training: Mapping[str, Any]
    title: str

    @property
    def task(self) -> TaskRow:
        return self.tuned.task

    @cached_property
    def looped(self) -> int | None:
        """The iterations that stand for looped-parallel."""
        return Measurements.of(replace(self.study, results=(self.tuned,))).looped

    def curve(self, strategy: str, results: TaskResults) -> Curve:
        """A strategy's scores as they are, over the number of affected layers; of `tuned` or `frozen`."""
        iterations = self.looped if strategy == "looped-parallel" else None
        study = replace(self.study, results=(results,))
        return curve(study, RawScores.of_task(results), strategy, iterations=iterations)

    def strategies(self) -> tuple[str, ...]:
        """The paper's strategies of which some plan was fine-tuned."""
        return tuple(name for name in ranked() if self.curve(name, self.tuned) or self._missing(name))

    def full(self, results: TaskResults | None) -> float:
        """The full model's score, NaN where it has none."""
        column = self.study.full
        return float("nan") if results is None or column is None else float(results.main.value[column])

    def variants(self) -> tuple[VariantRow, ...]:
        """What was fine-tuned, or begun."""
        return tuple(variant for variant in self.study.variants if self.tuned.status[variant.column] is not None)

    def how(self) -> str:
        """The training in words."""
        epochs, weight_decay = self.training["epochs"], self.training["weight_decay"]
        return ", ".join(
            (
                f"{epochs} epoch{'s' * (epochs != 1)}",
                f"learning rate {self.training['learning_rate']:g}",
                f"batches of {self.training['batch_size']}",
                *([f"weight decay {weight_decay:g}"] if weight_decay else []),
                f"seed {self.training['seed']}",
            )
        )

    def _missing(self, strategy: str) -> bool:
        return len(self.curve(strategy, self.tuned).missing) > 0


def split(studies: Sequence[Study]) -> tuple[tuple[Study, ...], tuple[TunedTask, ...]]:
    """Studies without their fine-tuned results, where anything else is in them, and the fine-tuned results."""
    others, found = [], []
    for study in studies:
        tuned = [result for result in study.results if is_finetuned(result.task.settings)]
        rest = tuple(result for result in study.results if result not in tuned)
        if rest or study.analyses:
            others.append(replace(study, results=rest))
        count = Counter(result.task.benchmark for result in tuned)
        for result in tuned:
            name, (training, settings) = result.task.benchmark, split_finetuned(result.task.settings)
            title = f"{name} #{result.task.id}" if count[name] > 1 else name
            found.append(TunedTask(study, result, _frozen(rest, result.task, settings), training, title))
    return tuple(others), tuple(found)


def of_study(tuned: Sequence[TunedTask], study: Study) -> tuple[TunedTask, ...]:
    """Those of the study's model and BOS setting."""
    return tuple(each for each in tuned if (each.study.model.id, each.study.bos) == (study.model.id, study.bos))


def _frozen(results: Sequence[TaskResults], task: TaskRow, settings: Mapping[str, Any]) -> TaskResults | None:
    """The task as the model without training was asked it."""
    for result in results:
        other = result.task
        alike = (other.benchmark, other.version, other.num_fewshot) == (task.benchmark, task.version, task.num_fewshot)
        if alike and json.loads(other.settings) == settings:
            return result
    return None

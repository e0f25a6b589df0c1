"""Fine-tuned results of a store apart from those of the models as they are, and side by side with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxpaint.plans.strategies import ranked
from jaxpaint.report.curves import Curve, curve
from jaxpaint.report.data import Study, TaskResults
from jaxpaint.report.normalise import as_they_are
from jaxpaint.results.kinds import is_finetuned, split_finetuned
from jaxpaint.results.reading import TaskRow, VariantRow


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

    def curve(self, strategy: str, results: TaskResults) -> Curve:
        """A strategy's scores as they are, over the number of affected layers; of `tuned` or `frozen`."""
        study = replace(self.study, results=(results,))
        return curve(study, as_they_are((results,), "fine-tuned"), strategy)

    def strategies(self) -> tuple[str, ...]:
        """The paper's strategies of which some plan was fine-tuned."""
        curves = {name: self.curve(name, self.tuned) for name in ranked()}
        return tuple(name for name, curve in curves.items() if curve or len(curve.missing))

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


def split(studies: Sequence[Study]) -> tuple[tuple[Study, ...], tuple[TunedTask, ...]]:
    """Studies without their fine-tuned results, where anything else is in them, and the fine-tuned results."""
    others, found = [], []
    for study in studies:
        tuned = [result for result in study.results if is_finetuned(result.task.settings)]
        rest = tuple(result for result in study.results if result not in tuned)
        if rest or study.analyses or study.flows:
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

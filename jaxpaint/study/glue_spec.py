"""A GLUE study: one encoder, many plans, many tasks, one results store. How it runs is `jaxpaint.study.glue`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.plans.strategies import Variant
from jaxpaint.study.glue_frozen import FrozenSettings
from jaxpaint.study.spec import variants_of
from jaxpaint.tasks.glue import GlueTask, glue_task
from jaxpaint.tasks.local_data import parse_data_option
from jaxpaint.training.glue_settings import FinetuneSettings

TRAIN = "train"


@dataclass(frozen=True)
class GlueSpec:
    """The settings of `jaxpaint glue`, as its options name them; paths as the user gave them.

    `training` says whether encoders are fine-tuned or frozen, and how. `data` are texts TASK:SPLIT=FILE (without a
    split, the validation examples); `limit` and `limit_train` numbers of examples. What else plans are made of is as in
    `jaxpaint.study.spec.StudySpec`.
    """

    model: str
    store: Path
    tasks: tuple[str, ...]
    training: FinetuneSettings | FrozenSettings = field(default_factory=FinetuneSettings)
    revision: str | None = None
    dtype: str = "auto"
    data: tuple[str, ...] = ()
    limit: int | None = None
    limit_train: int | None = None
    strategies: tuple[str, ...] = ()
    starts: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = tuple(range(10))
    loops: tuple[int, ...] = (3,)
    times: tuple[int, ...] = (2, 3)
    plans: tuple[str, ...] = ()

    def variants(self, num_layers: int) -> tuple[Variant, ...]:
        """Every variant on a model of `num_layers` layers, each once: the full model first.

        Raises:
            UserError: a start or a plan that does not fit the model.
        """
        return variants_of(
            num_layers, self.strategies, self.plans, self.starts, self.seeds, iterations=self.loops, times=self.times
        )

    def files(self) -> tuple[tuple[GlueTask, Mapping[str, Path]], ...]:
        """The tasks, each with its local files by split; a split without one is read from the hub.

        Raises:
            UserError: an unknown task, a file that is missing, or one for a task or split that is not read.
        """
        tasks = [glue_task(name) for name in self.tasks]
        given = parse_data_option(self.data)
        for name in given:
            if name not in self.tasks:
                raise UserError(f"--data {name}: {name} is not among --tasks {','.join(self.tasks)}")
        return tuple((task, _by_split(task, given.get(task.name, {}))) for task in tasks)


def _by_split(task: GlueTask, given: Mapping[str | None, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    known: Sequence[str] = (TRAIN, task.validation_split)
    for split, path in given.items():
        name = split or task.validation_split
        if name not in known:
            raise UserError(f"--data {task.name}:{split}: {task.name} is read from the splits {' and '.join(known)}")
        if name in found:
            raise UserError(f"--data gives the {name!r} split of {task.name} twice: {found[name]} and {path}")
        if path in found.values():
            raise UserError(
                f"--data {task.name}: {path} is given for both splits; train on other examples than it scores"
            )
        found[name] = path
    return found

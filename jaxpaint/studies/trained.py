"""Plans trained and then scored, one after the other: claimed among processes, and gone on with where one was ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpaint.base.locks import remove_abandoned
from jaxpaint.base.progress import Start, no_bar
from jaxpaint.base.words import count
from jaxpaint.plans.plan import Plan
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import Study
from jaxpaint.studies.run import StudySummary
from jaxpaint.training.checkpoints import claimed, discard
from jaxpaint.training.settings import TrainingSettings


@dataclass(frozen=True)
class TrainedSummary:
    """What was asked, plans on tasks, how many of these results this run computed, in `seconds` from beginning to end,
    and how many other processes are at; where plans are scored as they are, too, the study that does so."""

    plans: int
    tasks: int
    computed: int
    elsewhere: int
    seconds: float
    as_they_are: StudySummary | None = None

    def __str__(self) -> str:
        """In words, in one line."""
        before = self.as_they_are
        done = f"{count(self.plans, 'plan')}{' fine-tuned' if before else ''} on {count(self.tasks, 'task')}"
        if not (self.computed or self.elsewhere or (before and (before.work.executed or before.written))):
            return f"{done}; there was nothing to compute"
        others = f"; other processes are at {self.elsewhere}" if self.elsewhere else ""
        return f"{done}; {count(self.computed, 'result')} in {self.seconds:.0f} s{others}"


@dataclass(frozen=True, eq=False)
class Training:
    """A task's plans to be trained on so many `examples`, once for each of the settings' seeds, and scored.

    `study` are the task's cells. `folder` names where a plan's training leaves what it goes on from, the same for the
    same training alone. `run(number, folder, progress)` trains the plan of a number and keeps its scores.
    """

    study: Study
    examples: int
    settings: TrainingSettings
    folder: Callable[[Plan], str]
    run: Callable[[int, Path, Advance], None]

    @property
    def work(self) -> int:
        """Examples that a plan is trained on, counted for each pass over them."""
        return self.examples * self.settings.epochs * len(self.settings.seeds)

    def lacking(self, results: Store) -> list[int]:
        """The numbers of plans without results over all documents."""
        return np.flatnonzero(self.study.unfinished(results)[0]).tolist()


class Advance:
    """Progress of a plan's training in examples, out of progress in steps."""

    def __init__(self, training: Training, advance: Callable[[int, str], None]) -> None:
        self._training, self._name, self._advance = training, training.study.tasks[0].name, advance
        self._before = self._done = 0

    def __call__(self, steps: int, loss: float) -> None:
        """So many steps of the present seed's run are done."""
        examples, batch_size = self._training.examples, self._training.settings.batch_size
        epochs, rest = divmod(steps, -(-examples // batch_size))
        self._to(self._before + epochs * examples + rest * batch_size, f"{self._name}, loss {loss:.3f}")

    def seeds(self, done: int) -> None:
        """The runs of so many seeds are done, and the next one begins."""
        self._before = done * self._training.examples * self._training.settings.epochs
        self._to(self._before, self._name)

    def end(self) -> None:
        """Whatever was not trained here needs no more training."""
        self._to(self._training.work, self._name)

    def _to(self, done: int, note: str) -> None:
        if done > self._done:
            self._advance(done - self._done, note)
        self._done = done


def run_trained(results: Store, trainings: Sequence[Training], progress: Start = no_bar) -> tuple[int, int]:
    """Trains and scores every plan that the results store lacks: of how many, and how many other processes are at.

    What a killed training had done lies in a folder beside the results, named after them with `.checkpoints`, until its
    result is there; the next run goes on from there. Several processes may work on one file: each leaves alone the
    plans that another is training. `progress` counts examples, for each pass over them under each plan.

    Raises UserError for a store that cannot be written, or a checkpoint that cannot be written or read.
    """
    kept, computed = results.path.with_name(f"{results.path.name}.checkpoints"), 0
    todo = [(training, number) for training in trainings for number in training.lacking(results)]
    work = sum(training.work for training, _ in todo)
    advance = (progress if work else no_bar)(work)
    for training, number in todo:
        told, folder = Advance(training, advance), kept / training.folder(training.study.plans[number])
        with claimed(folder) as is_ours:
            if is_ours and number in training.lacking(results):
                training.run(number, folder, told)
                discard(folder)
                computed += 1
        told.end()
    remove_abandoned(kept)
    with suppress(OSError):  # none there, or still with plans of others
        kept.rmdir()
    return computed, sum(len(training.lacking(results)) for training in trainings)

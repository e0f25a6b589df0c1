"""A fine-tuning study from its settings to its results store: every plan scored as it is, then trained and scored."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpaint.base.words import count, digest
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.store import Store, Worker
from jaxpaint.study.cells import Study, model_id, register
from jaxpaint.study.finetuning_spec import FinetuneSettings, FinetuneSpec
from jaxpaint.study.loop import Loop
from jaxpaint.study.run import StudySummary, run_study
from jaxpaint.study.scoring import Scoring
from jaxpaint.study.session import spec_requests, spec_tasks
from jaxpaint.study.writing import Writing
from jaxpaint.tasks.evaluation import environment
from jaxpaint.tasks.requests import TaskRequests
from jaxpaint.training.answers import TrainingExamples, overlap, training_examples
from jaxpaint.training.checkpoints import TrainingCheckpoints, claimed
from jaxpaint.training.finetuning_tune import Tuned, tune
from jaxpaint.training.parameters import host_parameters

FINETUNED = "finetuned"  # among a task's settings, how the model was trained: other settings are another task
VERSION = 1  # of what training means here

StartBar = Callable[[int], Callable[[int, str], None]]


@dataclass(frozen=True)
class FinetuneSummary:
    """What was asked, plans on tasks, how many of these results this run computed, how many other processes are at,
    and the study of the plans as they are; `seconds` from beginning to end."""

    plans: int
    tasks: int
    computed: int
    elsewhere: int
    frozen: StudySummary
    seconds: float

    def __str__(self) -> str:
        """In words, in one line."""
        done = f"{count(self.plans, 'plan')} fine-tuned on {count(self.tasks, 'task')}"
        if not (self.computed or self.elsewhere or self.frozen.work.executed or self.frozen.written):
            return f"{done}; there was nothing to compute"
        others = f"; other processes are at {self.elsewhere}" if self.elsewhere else ""
        return f"{done}; {count(self.computed, 'result')} in {self.seconds:.0f} s{others}"


@dataclass(frozen=True, eq=False)
class _Task:
    """A task's requests, whose settings say how the model was trained on `examples`."""

    requests: TaskRequests
    examples: TrainingExamples


def run_finetune(
    spec: FinetuneSpec,
    store: Path,
    *,
    frozen_progress: StartBar | None = None,
    progress: StartBar | None = None,
    tell: Callable[[str], None] | None = None,
    command: str | None = None,
) -> FinetuneSummary:
    """Computes what the results store lacks. It may be ended at any moment, and called again.

    The plans are scored as they are first, exactly as `jaxpaint.study.run.run_study` does, so results that a study left
    in the store are used. Then every plan is trained on each task's training documents and scored on its test ones.
    What a killed training had done lies in a folder beside the results, named after them with `.checkpoints`, until its
    result is there. Several processes may work on one file: each leaves alone the plans that another is training.

    Args:
        spec: What to run.
        store: The converted model, which `spec.study.model` names.
        frozen_progress: As `run_study`'s `progress`.
        progress: Told the number of training examples, counted in each epoch and under each plan; gives what is called
            with the number of those done and a note.
        tell: Called with lines that the user should read.
        command: What the user typed, for the record.

    Raises:
        PlanError, UserError: as `run_study`, `training_examples` and `tune`. What was written before stands.
    """
    started = time.perf_counter()
    model = Source.of(store, spec.study.dtype)  # type: ignore[arg-type]
    variants = spec.trained_variants(model.num_layers)
    tasks = _tasks(spec, model, tell or (lambda line: None))
    # Before anything is trained: a device's memory has room for one of the two.
    frozen = run_study(spec.study, progress=frozen_progress, tell=tell, command=command)
    computed = 0
    with Store.open(spec.study.store, create=True) as results, Worker(spec.study.store) as worker:
        training = _Training(spec, model, results, worker, tell or (lambda line: None))
        studies = [training.registered(task, variants) for task in tasks]
        lacking = [np.flatnonzero(study.unfinished(results)[0]).tolist() for study in studies]
        work = sum(len(plans) * len(task.examples) for plans, task in zip(lacking, tasks, strict=True))
        advance = progress(work * spec.training.epochs) if progress and work else lambda examples, note: None
        for task, study, plans in zip(tasks, studies, lacking, strict=True):
            computed += sum(training.cell(task, study, plan, advance) for plan in plans)
        elsewhere = sum(int(study.unfinished(results)[0].sum()) for study in studies)
        with suppress(OSError):  # none there, or still with plans of others
            training.kept.rmdir()
    distinct = len({variant.plan for variant in variants})
    return FinetuneSummary(distinct, len(tasks), computed, elsewhere, frozen, time.perf_counter() - started)


def _tasks(spec: FinetuneSpec, model: Source, tell: Callable[[str], None]) -> list[_Task]:
    study = spec.study
    found = []
    for requests in spec_requests(study, model, spec_tasks(study)):
        examples = training_examples(requests.encoding, requests.name, requests.task, spec.limit_train)
        if seen := overlap(examples, requests.instances):
            tell(
                f"{requests.name}: {seen} of {len(examples)} training examples are among the scored documents, so the "
                "scores say nothing of new ones"
            )
        how = {"version": VERSION, "trained_on": examples.digest, **asdict(spec.training)}
        found.append(_Task(dataclasses.replace(requests, settings={**requests.settings, FINETUNED: how}), examples))
    return found


class _Training:
    """One process that trains and scores plans. `kept` is where it leaves what a killed one goes on from."""

    def __init__(
        self, spec: FinetuneSpec, model: Source, results: Store, worker: Worker, tell: Callable[[str], None]
    ) -> None:
        self.kept = results.path.with_name(f"{results.path.name}.checkpoints")
        self._spec, self._model, self._results, self._worker, self._tell = spec, model, results, worker, tell
        self._environment = environment()

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        """Read once for all plans, and not where nothing is missing."""
        return host_parameters(self._model)

    def registered(self, task: _Task, variants: tuple[Variant, ...]) -> Study:
        """The task's cells in the results store."""
        return register(self._results, model_id(self._results, self._model), variants, [task.requests])

    def cell(self, task: _Task, study: Study, number: int, advance: Callable[[int, str], None]) -> bool:
        """Trains and scores a study's plan, unless another process is at it or has done it: whether this one did."""
        plan, name = study.plans[number], task.requests.name
        told = _Advance(task.examples, self._spec.training, name, advance)
        # With `bos` other tokens are trained on; the settings tell of texts.
        parts = (self._model.manifest["fingerprint"], str(self._model.dtype), name, task.requests.bos, str(plan))
        folder = self.kept / digest(*parts, task.requests.settings[FINETUNED], sort_keys=True)
        with claimed(folder) as is_ours:
            if is_lacking := is_ours and bool(study.unfinished(self._results)[0, number]):
                self._train_and_score(task, study, number, folder, told)
                shutil.rmtree(folder, ignore_errors=True)
        told.end()
        return is_lacking

    def _train_and_score(self, task: _Task, study: Study, number: int, folder: Path, told: _Advance) -> None:
        cell, began = int(study.cells[0, number]), time.perf_counter()
        try:
            tuned = tune(
                self._model,
                self._parameters,
                study.plans[number],
                task.examples,
                self._spec.training,
                checkpoints=TrainingCheckpoints(folder),
                progress=told,
            )
        except FloatingPointError:
            self._results.finish(
                cell,
                documents=task.requests.documents,
                status="not finite",
                metrics=[],
                document_scores=[],
                environment=self._environment,
            )
            return
        jax.block_until_ready(tuned.model.state)
        self._results.add_scores([], {cell: time.perf_counter() - began})
        self._score(tuned.model, _of_tuned(study, number, tuned))

    def _score(self, model: Model, study: Study) -> None:
        """Scores or writes what a study of one plan lacks, as `run_study` does."""
        here: Mapping[str, Any] = {"environment": self._environment, "tell": self._tell}
        if study.tasks[0].is_generative:
            writing = Writing(model, study, self._spec.study.kv)  # type: ignore[arg-type]
            Loop(writing, self._results, self._worker, **here).run()
        else:
            scoring = Scoring(model, study, self._spec.study.batch_tokens)
            Loop(scoring, self._results, self._worker, **here).run()


class _Advance:
    """Progress in examples out of progress in steps."""

    def __init__(
        self, examples: TrainingExamples, settings: FinetuneSettings, name: str, advance: Callable[[int, str], None]
    ) -> None:
        self._size, self._settings, self._name, self._advance, self._done = len(examples), settings, name, advance, 0

    def __call__(self, steps: int, loss: float) -> None:
        of_epoch = -(-self._size // self._settings.batch_size)
        epochs, rest = divmod(steps, of_epoch)
        self._to(epochs * self._size + rest * self._settings.batch_size, f"{self._name}, loss {loss:.3f}")

    def end(self) -> None:
        """Whatever was not trained here needs no more training."""
        self._to(self._size * self._settings.epochs, self._name)

    def _to(self, done: int, note: str) -> None:
        if done > self._done:
            self._advance(done - self._done, note)
        self._done = done


def _of_tuned(study: Study, number: int, tuned: Tuned) -> Study:
    """One plan of a study, to be run by its own model; in the results it stays the plan that it was."""
    plans: tuple[Plan, ...] = (tuned.plan,)
    return dataclasses.replace(
        study,
        plans=plans,
        plan_ids=(study.plan_ids[number],),
        labels=(study.labels[number],),
        cells=study.cells[:, [number]],
    )

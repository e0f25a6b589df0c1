"""A fine-tuning study from its settings to its results store: every plan scored as it is, then trained and scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax

from convert import config_for, store_for
from jaxpaint.base.progress import Start, no_bar
from jaxpaint.base.words import digest
from jaxpaint.engine.source import Source
from jaxpaint.models.checkpoint import Progress
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.kinds import FINETUNED, TRAINED_ON
from jaxpaint.results.store import Store, Worker
from jaxpaint.studies.cells import register
from jaxpaint.studies.early import require_fitting, require_writable
from jaxpaint.studies.loop import Loop, Work
from jaxpaint.studies.run import run_study, spec_requests, spec_tasks
from jaxpaint.studies.scoring import Scoring
from jaxpaint.studies.spec import FinetuneSpec
from jaxpaint.studies.trained import Advance, TrainedSummary, Training, run_trained
from jaxpaint.studies.writing import Writing
from jaxpaint.tasks.evaluation import environment
from jaxpaint.tasks.requests import TaskRequests
from jaxpaint.training.answers import TrainingExamples, overlap, require_training_documents, training_examples
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.tune import host_parameters, tune_decoder

VERSION = 1  # of what training means here


def run_finetune(
    spec: FinetuneSpec,
    *,
    frozen_progress: Start = no_bar,
    progress: Start = no_bar,
    tell: Callable[[str], None] = lambda line: None,
    converting: Progress | None = None,
    command: str | None = None,
) -> TrainedSummary:
    """Computes what the results store lacks. It may be ended at any moment, and called again.

    The plans are scored as they are first, exactly as `jaxpaint.studies.run.run_study` does, so results that a study
    left in the store are used. Then every plan is trained on each task's training documents and scored on its test
    ones, as `jaxpaint.studies.trained.run_trained` does. `frozen_progress` and `progress` are those of the two, `tell`,
    `converting` and `command` as in `run_study`.

    Raises:
        PlanError, UserError: as `run_study`, `training_examples`, `run_trained` and `tune_decoder`. What was written
            before stands.
    """
    started = time.perf_counter()
    study, config = spec.study, config_for(spec.study.model, spec.study.revision)
    require_fitting(study, config)
    loaded = spec_tasks(study)
    require_writable(study, config, loaded)
    for name, task in loaded["tasks"].items():
        require_training_documents(name, task)
    model = Source.of(store_for(study.model, study.revision, progress=converting), study.dtype)  # type: ignore[arg-type]
    variants = spec.trained_variants(model.num_layers)
    tasks = _tasks(spec, model, loaded, tell)
    # Before anything is trained: a device's memory has room for one of the two.
    frozen = run_study(spec.study, progress=frozen_progress, tell=tell, command=command)
    with Store.open(spec.study.store, create=True) as results, Worker(spec.study.store) as worker:
        decoder = _Decoder(spec, model, results, worker, tell)
        computed, elsewhere = run_trained(results, [decoder.training(*task, variants) for task in tasks], progress)
    plans = len({variant.plan for variant in variants})
    return TrainedSummary(plans, len(tasks), computed, elsewhere, time.perf_counter() - started, frozen)


def _tasks(
    spec: FinetuneSpec, model: Source, loaded: Any, tell: Callable[[str], None]
) -> list[tuple[TaskRequests, TrainingExamples]]:
    """Each task's requests, whose settings say how the model is trained, and what it is trained on."""
    found = []
    for requests in spec_requests(spec.study, model, loaded):
        examples = training_examples(requests.encoding, requests.name, requests.task, spec.limit_train)
        spec.training.require_few_rows(len(examples))
        if seen := overlap(examples, requests.instances):
            tell(
                f"{requests.name}: {seen} of {len(examples)} training examples are among the scored documents, so the "
                "scores say nothing of new ones"
            )
        how = {"version": VERSION, TRAINED_ON: examples.digest, **spec.training.of_decoder()}
        found.append((replace(requests, settings={**requests.settings, FINETUNED: how}), examples))
    return found


def folder_name(model: Source, requests: TaskRequests, plan: Plan) -> str:
    """Where a plan's training keeps what it goes on from."""
    # With `bos` other tokens are trained on; the settings tell of texts.
    parts = (model.manifest["fingerprint"], str(model.dtype), requests.name, requests.bos, str(plan))
    return digest(*parts, requests.settings[FINETUNED], sort_keys=True)


@dataclass(frozen=True, eq=False)
class _Decoder:
    """One process that trains and scores plans of a model."""

    spec: FinetuneSpec
    model: Source
    results: Store
    worker: Worker
    tell: Callable[[str], None]

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Read once for all plans, and not where nothing is missing."""
        return host_parameters(self.model)

    def training(self, requests: TaskRequests, examples: TrainingExamples, variants: tuple[Variant, ...]) -> Training:
        """A task's plans, to be trained, and then scored or written under as `run_study` does."""
        study = register(self.results, self.model, variants, [requests])

        def run(number: int, folder: Path, told: Advance) -> None:
            cell, began, kept = int(study.cells[0, number]), time.perf_counter(), TrainingCheckpoints(folder)
            asked = self.model, self.parameters, study.plans[number], examples, self.spec.training
            try:
                tuned = tune_decoder(*asked, checkpoints=kept, progress=told)
            except FloatingPointError:
                nothing: dict[str, Any] = {"status": "not finite", "metrics": [], "document_scores": []}
                self.results.finish(cell, documents=requests.documents, environment=environment(), **nothing)
                return
            jax.block_until_ready(tuned.model.state)
            self.results.add_scores([], {cell: time.perf_counter() - began})
            # In the results it stays the plan it was.
            own = replace(study.of_plan(number), plans=(tuned.plan,))
            if requests.is_generative:
                work: Work = Writing(tuned.model, own, self.spec.study.kv)  # type: ignore[arg-type]
            else:
                work = Scoring(tuned.model, own, self.spec.study.batch_tokens)
            Loop(work, self.results, self.worker, tell=self.tell).run()

        folder = partial(folder_name, self.model, requests)
        return Training(study, len(examples), self.spec.training, folder, run)

"""A study from its settings to its results store: hundreds of plans on many tasks, each score computed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jaxpaint.base.budgets import budgets
from jaxpaint.base.words import count
from jaxpaint.engine.model import Model, load
from jaxpaint.generation.cache import groups
from jaxpaint.models.sharding import DATA, device_mesh
from jaxpaint.results.store import Store, Worker
from jaxpaint.study.analyses import analysis_texts, run_analyses
from jaxpaint.study.cells import register
from jaxpaint.study.scoring import Run, Work
from jaxpaint.study.spec import StudySpec
from jaxpaint.study.writing import GenerationRun
from jaxpaint.tasks.evaluation import environment
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import load_tasks
from jaxpaint.tasks.local_data import parse_data_option
from jaxpaint.tasks.requests import TaskRequests, load_requests


@dataclass(frozen=True)
class StudySummary:
    """How a study stands, and what this process did for it.

    Of `cells` (a plan on a task), `finished` have metrics and `not_finite` have scores that are no numbers. `work` is
    this process's scoring and `written` the texts that it generated, all in `seconds` from beginning to end; `analysed`
    are the plans it analysed.
    """

    plans: int
    cells: int
    finished: int
    not_finite: int
    analysed: int
    work: Work
    written: int
    seconds: float

    def __str__(self) -> str:
        """In words, in one line."""
        done = count(self.plans, "plan")
        if self.cells:
            done += f", {self.finished + self.not_finite} of {count(self.cells, 'result')} finished"
        if self.not_finite:
            done += f" ({self.not_finite} not finite)"
        new = []
        if self.work.executed:
            saved = self.work.separate / self.work.executed
            new.append(f"{self.work.scores} scores with {saved:.1f} times less work than one by one")
        if self.written:
            new.append(count(self.written, "text"))
        if self.analysed:
            new.append(f"{count(self.analysed, 'plan')} analysed")
        if not new:
            return f"{done}; there was nothing to compute"
        return f"{done}; {' and '.join(new)} in {self.seconds:.0f} s"


def run_study(
    spec: StudySpec,
    *,
    progress: Callable[[int], Callable[[int, str], None]] | None = None,
    tell: Callable[[str], None] | None = None,
    command: str | None = None,
) -> StudySummary:
    """Runs what the study's store lacks, and returns when nothing of the spec's shard is missing.

    It may be ended at any moment, and called again. Several processes may run it on one store at once: they divide
    the work, and each returns when all of it is done.

    Args:
        spec: What to run.
        progress: Told the number of tokens to score, counted under each plan; gives what is called with the number of
            tokens done and a note, such as `jaxpaint.base.progress.bar` gives.
        tell: Called with lines that the user should read; by default they go to stderr.
        command: What the user typed, for the record.

    Raises:
        UserError: a model, task or plan that cannot be used; a store that cannot be written, or that knows other
            texts; a device whose memory does not hold a single request. What was written before stands.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    tell = tell or (lambda line: print(line, file=sys.stderr))
    tasks = _tasks(spec)
    model = load(
        spec.model,
        dtype=spec.dtype,  # type: ignore[arg-type]
        revision=spec.revision,
        mesh=device_mesh(spec.tensor_parallel),
    )
    requests: Sequence[TaskRequests] = ()
    if tasks:
        lm = PlanLM(model, model.full_plan, bos=spec.bos, kv=spec.kv)  # type: ignore[arg-type]
        requests = load_requests(lm, tasks, limit=spec.limit)
    with Store.open(spec.store, create=True) as store:
        scored = [task for task in requests if not task.is_generative]
        generative = [task for task in requests if task.is_generative]
        model_id = store.model(
            fingerprint=model.manifest["fingerprint"],
            dtype=str(model.dtype),
            source=model.manifest.get("source"),
            revision=model.manifest.get("revision"),
            num_layers=model.num_layers,
        )
        variants = spec.shard_variants(model.num_layers)
        study = register(store, model, variants, scored, model_id=model_id)
        written_study = register(store, model, variants, generative, model_id=model_id)
        if spec.kv == "mean" and generative:
            for plan in study.plans:
                groups(plan, plan.cost)
        with Worker(spec.store) as worker:

            def keep(work: Work) -> None:
                if work.executed:
                    store.add_run(
                        worker,
                        started,
                        seconds=work.seconds,
                        executed=work.executed,
                        distinct_work=work.distinct,
                        separate=work.separate,
                        command=command,
                    )

            run = Run(
                study,
                store,
                worker,
                environment=environment(),
                batch_tokens=spec.batch_tokens or budgets().score_tokens * _shards(model),
                progress=progress or (lambda total: lambda tokens, note: None),
                tell=tell,
                keep=keep,
            )
            run.run()
            generation = GenerationRun(
                written_study,
                store,
                worker,
                kv=spec.kv,  # type: ignore[arg-type]
                environment=environment(),
                progress=progress or (lambda total: lambda tokens, note: None),
                tell=tell,
            )
            generation.run()
            analysed = 0
            analysed_plans = set(spec.analysed_plans(model.num_layers))
            if analysed_plans:
                texts, settings = analysis_texts(model, spec.bos, _analysis_task(spec), spec.analysis_samples)
                analysed = run_analyses(
                    model,
                    store,
                    model_id,
                    {
                        plan_id: plan
                        for plan_id, plan in zip(study.plan_ids, study.plans, strict=True)
                        if plan in analysed_plans
                    },
                    spec.analyses,
                    texts,
                    settings,
                    batch_tokens=spec.batch_tokens,
                    tell=tell,
                )
        cells = [*study.cells.reshape(-1).tolist(), *written_study.cells.reshape(-1).tolist()]
        statuses = [state.status for state in store.states(cells)]
    return StudySummary(
        plans=len(study.plans),
        cells=len(statuses),
        finished=statuses.count("finished"),
        not_finite=statuses.count("not finite"),
        analysed=analysed,
        work=run.work,
        written=generation.written,
        seconds=time.perf_counter() - clock,
    )


def _tasks(spec: StudySpec) -> Any:
    """What is scored, loaded; local files for the analyses' texts alone are left to them."""
    if not spec.tasks:
        return None
    data = parse_data_option(spec.data)
    if spec.analyses and spec.analysis_task not in spec.tasks:
        data.pop(spec.analysis_task, None)
    return load_tasks(spec.tasks, data=data, num_fewshot=spec.num_fewshot)


def _analysis_task(spec: StudySpec) -> Any:
    """The task whose texts are analysed, without examples before them."""
    data = parse_data_option(spec.data)
    own = {spec.analysis_task: data[spec.analysis_task]} if spec.analysis_task in data else {}
    return load_tasks([spec.analysis_task], data=own, num_fewshot=0)


def _shards(model: Model) -> int:
    return model.mesh.shape[DATA] if model.mesh else 1

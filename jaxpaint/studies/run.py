"""A study from its settings to its results store: hundreds of plans on many tasks, each score computed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh

from convert import config_for, store_for
from convert.cache import require_converted
from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import Start, asked_bar, no_bar
from jaxpaint.base.target import compiling_for
from jaxpaint.base.words import count
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source, with_weights
from jaxpaint.generation.cache import groups
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.sharding import DATA, device_mesh
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.report.duration import report_seconds
from jaxpaint.results.groups import Group
from jaxpaint.results.store import Store, Worker
from jaxpaint.studies.analyses import AnalysedTexts, analysis_texts, analysis_tokens, run_analyses
from jaxpaint.studies.cells import Study, register
from jaxpaint.studies.cluster import Cluster, Device, joined, require_reachable
from jaxpaint.studies.early import require_fitting, require_writable
from jaxpaint.studies.hosts import Hosts
from jaxpaint.studies.loop import Loop
from jaxpaint.studies.phases import SCORED_PER_WRITTEN, Phases
from jaxpaint.studies.pools import Job, Pool
from jaxpaint.studies.proposing import calibration_texts, measured
from jaxpaint.studies.scoring import Scoring, Work
from jaxpaint.studies.spec import StudySpec
from jaxpaint.studies.spread import Spread
from jaxpaint.studies.writing import Writing
from jaxpaint.tasks.encoding import Encoding
from jaxpaint.tasks.groups import groups_of
from jaxpaint.tasks.load import load_tasks
from jaxpaint.tasks.local_data import parse_data_option
from jaxpaint.tasks.requests import TaskRequests, load_requests


@dataclass(frozen=True)
class StudySummary:
    """How a study stands, and what this process did for it.

    Of `cells` (a plan on a task), `finished` have metrics and `not_finite` have scores that are no numbers. `work` is
    this process's scoring and `written` the texts that it generated, all in `seconds` from beginning to end; `analysed`
    are the plans it analysed. `in_store` are the cells' numbers there, a task's after the other's, and `groups` those
    of the groups of tasks, which have no cells.
    """

    plans: int
    cells: int
    finished: int
    not_finite: int
    analysed: int
    work: Work
    written: int
    seconds: float
    in_store: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()

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


@dataclass(frozen=True, eq=False)
class Session:
    """A study's model, tasks, store and worker held open; use `open_session`.

    The weights are read when something has to be computed here: where the store has it all they never are.
    """

    spec: StudySpec
    model: Source
    requests: tuple[TaskRequests, ...]
    analysed: AnalysedTexts | None
    store: Store
    worker: Worker
    progress: Start
    tell: Callable[[str], None]
    command: str | None
    pool: Pool | None = None
    reports: bool = False
    groups: tuple[Group, ...] = ()

    def measure(self) -> Mapping[str, Any]:
        """What plans are proposed from (`jaxpaint.studies.proposing`); nothing where no strategy asks for it."""
        return measured(self.spec, self.model, self.store, self.pool.run if self.pool else self._run, self.tell)

    def score(self, variants: Sequence[Variant], *, finishes: bool = True) -> StudySummary:
        """Computes what the store lacks of the variants: scores, texts and analyses, as the spec says.

        It returns when nothing is missing, though another process had computed it. Where it does not finish, cells get
        scores alone and no metrics: for whom these requests are a part of the documents, chosen anew each time.

        Raises:
            UserError: a plan that cannot be run so, a store that cannot be written, or that knows other texts; a device
                whose memory does not hold a single request. What was written before stands.
        """
        started, clock = datetime.now(UTC), time.perf_counter()
        generative = [task for task in self.requests if task.is_generative]
        scored = [task for task in self.requests if task not in generative]
        environment = self.pool.environment if self.pool else None
        study = replace(register(self.store, self.model, variants, scored, environment), finishes=finishes)
        written = register(self.store, self.model, variants, generative, environment)
        ids = {each.name: id for of in (study, written) for each, id in zip(of.tasks, of.task_ids, strict=True)}
        groups_of_tasks = tuple(self.store.group(each, ids) for each in self.groups if {*each.members} <= ids.keys())
        if self.spec.kv == "mean" and generative:
            for plan in study.plans:
                groups(plan, plan.attentions)
        scoring = Scoring(self.model, study, self.spec.batch_tokens)
        writing = Writing(self.model, written, self.spec.kv)  # type: ignore[arg-type]

        def keep() -> None:
            work = scoring.work
            if work.executed:
                self.store.add_run(
                    self.worker,
                    started,
                    seconds=work.seconds,
                    executed=work.executed,
                    distinct_work=work.distinct,
                    separate=work.separate,
                    command=self.command,
                )

        loops = {
            name: Loop(
                Spread(work, self.pool) if self.pool else work,  # type: ignore[arg-type]
                *(self.store, self.worker),
                tell=self.tell,
                keep=after,
            )
            for name, work, after in (("scoring", scoring, keep), ("writing", writing, lambda: None))
        }
        asked = self._asked(study, variants)
        phases = Phases(
            {
                "scoring": loops["scoring"].left,
                "writing": SCORED_PER_WRITTEN * loops["writing"].left,
                "analyses": analysis_tokens(self.store, study.model_id, asked, self.spec.analyses, *self.analysed)
                if self.analysed
                else 0,
            },
            report_seconds(len(study.plans), sum(task.documents for task in self.requests)) if self.reports else 0.0,
        )
        loops["scoring"].run(phases.of("scoring", self.progress))
        loops["writing"].run(phases.of("writing", self.progress, SCORED_PER_WRITTEN))
        analysed = self._analyse(study.model_id, asked, phases.of("analyses", self.progress))
        cells = [*study.cells.reshape(-1).tolist(), *written.cells.reshape(-1).tolist()]
        statuses = [state.status for state in self.store.states(cells)]
        return StudySummary(
            plans=len(study.plans),
            cells=len(statuses),
            finished=statuses.count("finished"),
            not_finite=statuses.count("not finite"),
            analysed=analysed,
            work=scoring.work,
            written=writing.written,
            seconds=time.perf_counter() - clock,
            in_store=tuple(cells),
            groups=groups_of_tasks,
        )

    def _asked(self, study: Study, variants: Sequence[Variant]) -> dict[int, Plan]:
        """The plans that are to be analysed, by their ids."""
        asked = set(self.spec.analysed_plans(variants))
        return {number: plan for number, plan in zip(study.plan_ids, study.plans, strict=True) if plan in asked}

    def _analyse(self, model_id: int, asked: Mapping[int, Plan], progress: Start) -> int:
        """How many plans it analysed."""
        if not asked:
            return 0
        assert self.analysed is not None  # only a spec with analyses asks for any
        return run_analyses(
            self.pool.run if self.pool else self._run,
            self.store,
            model_id,
            asked,
            self.spec.analyses,
            *self.analysed,
            batch_tokens=self.spec.batch_tokens,
            is_local=self.pool is None,
            progress=progress,
            tell=self.tell,
        )

    def _run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            yield number, job(self.model.loaded)


@contextmanager
def open_session(
    spec: StudySpec,
    *,
    tell: Callable[[str], None],
    progress: Start = no_bar,
    converting: Progress | None = None,
    command: str | None = None,
    cluster: Cluster | Hosts | None = None,
    source: Source | None = None,
    reports: bool = False,
) -> Iterator[Session]:
    """Loads the spec's tasks, and opens its model and store. Arguments and errors as `run_study`."""
    if isinstance(cluster, Hosts):
        require_converted(spec.model, spec.revision)
    elif cluster is not None:
        require_reachable(cluster)
        jax.config.update("jax_platforms", "cpu")  # a device here, if there is one, is a worker's
    config = config_for(spec.model, spec.revision)  # what cannot run is told before anything is loaded or converted
    require_fitting(spec, config)
    if spec.measurements:
        calibration_texts(spec.calibration)
    is_here = source is None and not isinstance(cluster, Cluster)
    mesh = device_mesh(spec.tensor_parallel, spec.layer_parallel) if is_here else None
    # The texts to analyse are needed last: that they are not there is told now, and not after all else is done.
    to_analyse = analysis_tasks(spec) if spec.analyses else None
    tasks = spec_tasks(spec)
    require_writable(spec, config, tasks)
    converted = source.store if source else store_for(spec.model, spec.revision, progress=converting)
    with ExitStack() as stack:
        model, pool = (source, None) if source else _computing(stack, spec, converted, mesh, cluster, tell)
        requests = spec_requests(spec, model, tasks) if tasks else ()
        analysed = _texts(spec, model, to_analyse) if to_analyse else None
        if (writing := next((task for task in requests if task.is_generative), None)) is not None:
            for line in writing.encoding.generation.lines(model.tokenizer.eos_token_id):
                tell(line)
        if not spec.store.exists():  # all has to be computed: what the weights lack is told before anything is made
            pool.load() if pool else with_weights(model)
        store = stack.enter_context(Store.open(spec.store, create=True))
        worker = stack.enter_context(Worker(spec.store))
        tell_mended(store, tell)
        of_tasks = groups_of(tasks) if tasks else ()
        yield Session(spec, model, requests, analysed, store, worker, progress, tell, command, pool, reports, of_tasks)


def _computing(
    stack: ExitStack,
    spec: StudySpec,
    store: Path,
    mesh: Any,
    cluster: Cluster | Hosts | None,
    tell: Callable[..., None],
) -> tuple[Source, Pool | None]:
    """The model, and who computes in place of this process alone."""
    if isinstance(cluster, Cluster):
        workers = stack.enter_context(joined(cluster, spec, tell))
        stack.enter_context(compiling_for(workers.device.platform))
        return _source(store, spec, workers.device), workers
    model = Source.of(store, spec.dtype, spec.weights, mesh=mesh, offload=spec.offload)  # type: ignore[arg-type]
    return model, None if cluster is None else cluster.pool(spec, model)


def _source(store: Path, spec: StudySpec, device: Device) -> Source:
    """The model as a cluster's workers compute it. Raises UserError where theirs is another one."""
    source = Source.of(store, spec.dtype, spec.weights)  # type: ignore[arg-type]
    if (device.fingerprint, device.computed_in) != (source.manifest["fingerprint"], source.computed_in):
        raise UserError(f"the cluster's workers have another model under the name {spec.model} than this machine")
    return replace(source, mesh=AbstractMesh((device.rows,), (DATA,))) if device.rows > 1 else source


def _texts(spec: StudySpec, model: Model | Source, tasks: Any) -> AnalysedTexts:
    return analysis_texts(model, spec.bos, tasks, spec.analysis_samples)  # type: ignore[arg-type]


def tell_mended(store: Store, tell: Callable[[str], None]) -> None:
    """Says what was found damaged in a store as it was opened."""
    if store.mended:
        tell(f"{store.path}: damaged, and computed again where it is asked for: {store.mended}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def run_study(
    spec: StudySpec,
    *,
    progress: Start | bool | None = None,
    tell: Callable[[str], None] = _to_stderr,
    converting: Progress | None = None,
    command: str | None = None,
    cluster: Cluster | Hosts | None = None,
    source: Source | None = None,
    reports: bool = False,
) -> StudySummary:
    """Runs what the study's store lacks, and returns when nothing of the spec's shard is missing.

    It may be ended at any moment, and called again. Several processes may run it on one store at once: they divide
    the work, and each returns when all of it is done. `progress` says whether to show a bar (default: in notebooks
    and on terminals), or opens one of the caller's own, which counts tokens under each plan; `tell` gets lines that the
    user should read (default: to stderr); `converting` is told of a first use's conversion; `command` is what the user
    typed, for the record; with a `cluster` its workers compute, or all of the processes together
    (`jaxpaint.studies.hosts`), and this process keeps the store; `source` is the spec's model where its weights may be
    there already; `reports` says that a report comes after it, whose time counts in the time left.

    Raises:
        UserError: a model, task, plan or cluster that cannot be used; a store that cannot be written, or that knows
            other texts; a device whose memory does not hold a single request. What was written before stands.
    """
    clock = time.perf_counter()
    how: dict[str, Any] = {"converting": converting, "command": command, "cluster": cluster, "source": source}
    with ExitStack() as stack:
        if progress is None or isinstance(progress, bool):
            progress = stack.enter_context(asked_bar(progress, "study"))
        session = stack.enter_context(open_session(spec, progress=progress, tell=tell, reports=reports, **how))
        summary = session.score(spec.shard_variants(session.model.num_layers, session.measure()))
    return replace(summary, seconds=time.perf_counter() - clock)


def spec_tasks(spec: StudySpec) -> Any:
    """What is scored, loaded; None without tasks. Local files for the analyses' texts alone are left to them."""
    if not spec.tasks:
        return None
    data = parse_data_option(spec.data)
    if spec.analyses and spec.analysis_task not in spec.tasks:
        data.pop(spec.analysis_task, None)
    how: dict[str, Any] = {"include_path": spec.include_path, "trust": spec.trust_tasks, "asking": spec.asking}
    return load_tasks(spec.tasks, data=data, num_fewshot=spec.num_fewshot, **how)


def analysis_tasks(spec: StudySpec) -> Any:
    """The task whose texts are analysed, without examples before them, loaded."""
    data = parse_data_option(spec.data)
    own = {spec.analysis_task: data[spec.analysis_task]} if spec.analysis_task in data else {}
    how: dict[str, Any] = {"include_path": spec.include_path, "trust": spec.trust_tasks}
    return load_tasks([spec.analysis_task], data=own, num_fewshot=0, **how)


def spec_requests(spec: StudySpec, model: Model | Source, tasks: Any) -> tuple[TaskRequests, ...]:
    """What loaded tasks ask of the model. Raises UserError as `Encoding.of` and `load_requests`."""
    how: dict[str, Any] = {"limit": spec.limit, "kv": spec.kv, "asking": spec.asking}
    how["keeps_texts"] = not spec.no_document_texts
    return load_requests(spec_encoding(spec, model), tasks, **how)


def spec_encoding(spec: StudySpec, model: Model | Source) -> Encoding:
    """How the spec's texts become the model's tokens. Raises UserError as `Encoding.of`."""
    return Encoding.of(model, spec.bos, max_length=spec.max_length, asking=spec.asking)  # type: ignore[arg-type]

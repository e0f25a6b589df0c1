"""A search from its settings to its front: a study's engine and store, asked for one generation of plans after another.

What is asked next depends on the seed and on scores in the store alone, so a search that was ended goes on by beginning
again: what the store has is read, not computed. Several processes may run it on one store at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from convert import config_for
from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import Advance, Start, no_bar
from jaxpaint.base.words import count
from jaxpaint.bench.latency import setting_of
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.proposals import MEASURED
from jaxpaint.plans.strategies import CUSTOM, Variant, build, proposed
from jaxpaint.results.kinds import SEARCH, main_filter
from jaxpaint.results.search import FRONT, FULL, REFERENCE, Estimate, Found, SearchResult, SearchSetting, holm
from jaxpaint.search.budget import Limit
from jaxpaint.search.confirm import front, mean_difference, shrinkage, spread
from jaxpaint.search.documents import Split, of_documents, only_held_out, split
from jaxpaint.search.methods import METHODS, Generation, Space, best, without_middle
from jaxpaint.search.objective import answer_scores
from jaxpaint.search.spec import SearchSpec
from jaxpaint.search.timing import clock_of, sizes, timed
from jaxpaint.studies.cells import register
from jaxpaint.studies.cluster import Cluster
from jaxpaint.studies.hosts import Hosts
from jaxpaint.studies.run import Session, open_session
from jaxpaint.tasks.requests import TaskRequests

BEGINNERS = 4  # of the best plans so far, which the next method begins with
DIGITS = 6  # of scores that are compared: what is beyond may differ from one order of computing to another
NAMES = {"drop-by-influence": "Block Influence", "drop-span-by-angle": "the span of least angle"}


def run_search(
    spec: SearchSpec,
    *,
    tell: Callable[[str], None],
    progress: Start = no_bar,
    converting: Any = None,
    command: str | None = None,
    cluster: Cluster | Hosts | None = None,
) -> SearchResult:
    """Searches, confirms what was found on held-out documents, and keeps the outcome in the store.

    Arguments and errors are those of `jaxpaint.studies.run.run_study`. Also raises UserError for a budget without a
    layer, a task that writes its answers or has too few documents, or a full model with logits that are not finite; for
    a latency on a cluster, or of a model that writes no text. With a `cluster` its workers score.
    """
    _check_budget(spec, cluster)
    how: dict[str, Any] = {"converting": converting, "command": command, "cluster": cluster}
    with open_session(spec.study, tell=tell, progress=progress, **how) as session:
        clock = clock_of(session, spec.timing) if spec.budget.kind == "latency" else None
        limit = spec.budget.limit(session.model.num_layers, clock)
        splits = _splits(spec, session.requests)
        references = _references(spec, session, limit)
        search = _Search(session, tuple(each for each in splits if each.search), limit, tell, progress)
        for name in spec.methods:
            own = search.run(name, _space(spec, search, references))
            if name == "random" and own and references:
                references |= {f"the best of {spec.plans} random plans": own}
        return _outcome(spec, search, splits, references)


def _check_budget(spec: SearchSpec, cluster: Cluster | Hosts | None) -> None:
    """What needs no model. Raises UserError."""
    config = config_for(spec.study.model, spec.study.revision)
    if spec.budget.kind != "latency":
        spec.budget.limit(config.num_hidden_layers)
    elif cluster is not None:
        option = "--ray" if isinstance(cluster, Cluster) else "--coordinator"
        raise UserError(f"a latency is measured on the device here; leave {option} away, or search by cost or depth")
    else:
        sizes(spec.timing).check(config)


class _Search:
    """What was looked at so far: `scores` are of plans on all of the search's documents, `asked` all plans."""

    def __init__(
        self,
        session: Session,
        splits: Sequence[Split],
        limit: Limit,
        tell: Callable[[str], None],
        progress: Start,
    ) -> None:
        self.session, self.splits, self.limit, self.tell, self.progress = session, splits, limit, tell, progress
        self.scores: dict[Plan, float] = {}
        self.asked: set[Plan] = set()

    @property
    def standing(self) -> str:
        """The best plan so far, in words."""
        found = self.best(1)
        return f"best {self.scores[found[0]]:+.3f} nats: {found[0]}" if found else ""

    def best(self, number: int) -> tuple[Plan, ...]:
        fitting = {plan: score for plan, score in self.scores.items() if self.limit.fits(plan)}
        return best(tuple(fitting), list(fitting.values()), number)

    def run(self, name: str, space: Space) -> Plan | None:
        """One method to its end; the best plan of its own within the limit, None where it had none."""
        own: dict[Plan, float] = {}
        method, number = METHODS[name](space), 0
        wanted = next(method, None)
        while wanted is not None:
            number += 1
            scores = self.ask(wanted, f"{name}, generation {number}")
            if wanted.share == 1:
                own |= {p: s for p, s in zip(wanted.plans, scores, strict=True) if self.limit.fits(p)}
            try:
                wanted = method.send(scores)
            except StopIteration:
                wanted = None
        return next(iter(best(tuple(own), list(own.values()), 1)), None)

    def ask(self, wanted: Generation, what: str) -> list[float]:
        """A generation's scores, computed where the store lacks them."""
        requests = [each.beginning(wanted.share) for each in self.splits]
        plans = [_full(self.session), *wanted.plans]
        values, computed = answers(self._told(what), requests, plans)
        if not all(np.isfinite(task[0]).all() for task in values):
            raise UserError("the full model's logits are not finite on these documents; try --dtype float32")
        less = np.mean([task.mean(axis=1) - task[0].mean() for task in values], axis=0)
        scores = [round(float(score), DIGITS) for score in less[1:]]
        self.asked |= set(wanted.plans)
        if wanted.share == 1:
            self.scores |= dict(zip(wanted.plans, scores, strict=True)) | {plans[0]: 0.0}
        if computed:
            documents = sum(each.documents for each in requests)
            self.tell(
                f"{what}: {count(len(wanted.plans), 'plan')} on {documents} documents; {self.standing}".rstrip("; ")
            )
        return scores

    def _told(self, what: str) -> Session:
        """The session, whose bars tell what is done, and of the best plan so far."""

        def start(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
            advance, standing = self.progress(total, what), self.standing
            return lambda amount, note="": advance(amount, standing)

        return replace(self.session, progress=start)


def answers(
    session: Session, requests: Sequence[TaskRequests], plans: Sequence[Plan]
) -> tuple[list[Float[np.ndarray, "P documents"]], bool]:
    """Of each task, every plan's score document by document (`answer_scores`), and whether anything was computed."""
    variants = [_variant(plan, session.model.num_layers) for plan in plans]
    part = replace(session, requests=tuple(requests))
    computed = part.score(variants, finishes=False).work.executed > 0
    study = register(session.store, session.model, variants, requests)
    columns = {plan: column for column, plan in enumerate(study.plans)}
    found = []
    for task, own in enumerate(requests):
        ids = study.request_ids[study.task_of == task].tolist()
        rows = [session.store.scores(int(study.cells[task, columns[plan]]), ids)[0] for plan in plans]
        found.append(answer_scores(own, np.array(rows)))
    return found, computed


def _full(session: Session) -> Plan:
    return Plan.of(range(session.model.num_layers))


def _variant(plan: Plan, num_layers: int) -> Variant:
    full = build("full", num_layers)
    return full if plan == full.plan else Variant(CUSTOM, plan, num_layers)


def _splits(spec: SearchSpec, requests: Sequence[TaskRequests]) -> tuple[Split, ...]:
    held = {Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in spec.held_out_tasks}
    if missing := held - {each.name for each in requests}:
        raise UserError(f"--held-out-tasks: {sorted(missing)[0]} is no single task; name a group's tasks one by one")
    return tuple(
        only_held_out(each) if each.name in held else split(each, spec.seed, spec.held_out) for each in requests
    )


def _references(spec: SearchSpec, session: Session, limit: Limit) -> dict[str, Plan]:
    """Plans at the limit that are known without a search, by what they are."""
    layers = session.model.num_layers
    measured, out = session.measure(), layers - limit.layers
    if out <= 0:
        return {}
    found = {"skip of the middle": without_middle(layers, out)}
    for name in spec.study.strategies:
        numbers = measured[str(MEASURED[name].measurement)]
        found[NAMES[name]] = proposed(name, layers, numbers, out).plan
    return found


def _space(spec: SearchSpec, search: _Search, references: dict[str, Plan]) -> Space:
    starts = tuple(dict.fromkeys([*references.values(), *search.best(BEGINNERS)]))
    return Space(search.session.model.num_layers, search.limit, starts, spec.seed, spec.plans, spec.width)


def _outcome(spec: SearchSpec, search: _Search, splits: Sequence[Split], references: dict[str, Plan]) -> SearchResult:
    """Scores the finalists on all documents, and says what the held-out ones do of them."""
    session, full = search.session, _full(search.session)
    search.ask(Generation((full, *references.values())), "the plans to compare with")
    # The clock foresees a latency, and may be wrong: several of the best are measured.
    timing = spec.timing if search.limit.kind == "latency" else None
    leading = search.best(1 if timing is None else max(1, spec.finalists // 2))
    if not leading or not math.isfinite(search.scores[leading[0]]):
        raise UserError("no plan within the budget has finite logits on all documents; try another seed or budget")
    # Of the front what is near the budget, or above it: plans of a few layers are cheap and of no use.
    near = (plan for plan in front(search.scores) if 2 * search.limit.of(plan) >= search.limit.most)
    on_front = [plan for plan in near if plan not in (*leading, full)]
    by_cost = sorted([*on_front, *leading], key=lambda plan: plan.cost)
    finalists = spread(by_cost, leading, max(spec.finalists, len(leading)))
    took = {} if timing is None else timed(session, [full, *finalists, *references.values()], timing)
    winner = _winner(search, leading, finalists, took)
    names = {full: "the full model"}
    for name, plan in references.items():
        names.setdefault(plan, name)
    plans = list(dict.fromkeys([full, *finalists, *references.values()]))
    rows = {plan: row for row, plan in enumerate(plans)}
    session.score([_variant(plan, session.model.num_layers) for plan in plans])
    on_search = [each.beginning(1) for each in search.splits]
    own, _ = answers(session, on_search, plans)
    unseen = [of_documents(each.requests, each.held_out) for each in splits]
    held, _ = answers(session, unseen, plans)
    metrics = [_metrics(session, each, plans) for each in unseen]
    of_searched = [place for place, each in enumerate(splits) if each.search]
    reference = next(iter(references.values()), None)

    def against(values: Sequence[np.ndarray], plan: Plan, other: Plan, tasks: Sequence[int] | None = None) -> Estimate:
        chosen = [values[task] for task in (range(len(values)) if tasks is None else tasks)]
        return mean_difference([task[rows[plan]] for task in chosen], [task[rows[other]] for task in chosen])

    found = []
    for plan in plans:
        seen, same = against(own, plan, full), against(held, plan, full, of_searched)
        beside = None if reference is None or plan == reference else against(held, plan, reference)
        role = FRONT if plan in finalists else FULL if plan == full else REFERENCE
        found.append(
            Found(
                plan=str(plan),
                role=role,
                name=names.get(plan, ""),
                cost=plan.cost,
                depth=plan.depth,
                search=seen,
                held_out=against(held, plan, full),
                metric=against(metrics, plan, full),
                against=beside,
                shrinkage=shrinkage(seen, same),
                p=1.0,
                latency=took.get(plan),
            )
        )
    tested = [place for place, each in enumerate(found) if each.role == FRONT]
    leads = [found[place].against or found[place].held_out for place in tested]
    for place, p in zip(tested, holm([lead.p for lead in leads]), strict=True):
        found[place] = replace(found[place], p=p)
    executed, separate = session.store.connection.execute("SELECT sum(executed), sum(separate) FROM runs").fetchone()
    result = SearchResult(
        setting=_setting(spec, search, splits),
        limit=search.limit.most,
        winner=str(winner),
        compared=len(search.asked),
        luck=against(own, winner, full if reference in (None, winner) else reference),
        leads=tuple((names[plan], against(held, winner, plan)) for plan in names if plan != winner),
        found=tuple(found),
        looked=tuple((plan.cost, plan.depth, score) for plan, score in search.scores.items()),
        executed=int(executed or 0),
        separate=int(separate or 0),
    )
    study = register(session.store, session.model, [build("full", session.model.num_layers)], [])
    session.store.add_record(study.model_id, study.plan_ids[0], SEARCH, asdict(result.setting), result.value)
    return result


def _winner(search: _Search, leading: Sequence[Plan], finalists: Sequence[Plan], took: Mapping[Plan, float]) -> Plan:
    """The best within the budget; of a latency the best that was measured within it, if any was."""
    within = [plan for plan in finalists if took.get(plan, math.inf) <= search.limit.most]
    return best(within, [search.scores[plan] for plan in within], 1)[0] if within else leading[0]


def _budget(spec: SearchSpec, session: Session) -> str:
    if spec.budget.kind != "latency":
        return str(spec.budget)
    return f"{spec.budget} of {spec.timing} on {setting_of(session.model, sizes(spec.timing)).machine}"


def _metrics(session: Session, requests: TaskRequests, plans: Sequence[Plan]) -> Float[np.ndarray, "P documents"]:
    """The task's main metric of every plan, document by document; NaN where it is no number of a document."""
    study = register(session.store, session.model, [_variant(p, session.model.num_layers) for p in plans], [requests])
    documents = sorted({document for document, _, _ in requests.identities})
    connection = session.store.connection
    name = main_filter(connection, study.task_ids[0], requests.main_metric)
    found = np.full((len(plans), len(documents)), np.nan)
    for row, cell in enumerate(study.cells[0].tolist()):
        query = "SELECT document, value FROM document_scores WHERE (cell, metric, filter) = (?, ?, ?)"
        values = dict(connection.execute(query, (cell, requests.main_metric, name)).fetchall())
        found[row] = [values.get(document, math.nan) for document in documents]
    return found


def _setting(spec: SearchSpec, search: _Search, splits: Sequence[Split]) -> SearchSetting:
    return SearchSetting(
        tasks=tuple(each.requests.name for each in splits if each.search),
        held_out_tasks=tuple(each.requests.name for each in splits if not each.search),
        methods=spec.methods,
        budget=_budget(spec, search.session),
        documents=sum(len(each.search) for each in splits),
        held_out=sum(len(each.held_out) for each in splits),
        plans=spec.plans,
        width=spec.width,
        seed=spec.seed,
    )

"""The results store: every log-likelihood, metric and analysis of a study in one SQLite file that nothing loses.

A *cell* is one model under one plan on one task. Its *scores* are its requests' log-likelihoods; once all that a study
wants are there, its *metrics* are computed from them and the cell is finished. Every method that writes is one
transaction, so a process may be killed at any moment, and several may work on one file: they divide the work by
*claims*. Readers need no more than `reading` and SQL; the views `results`, `loglikelihoods` and `document_results`
join the ids into readable rows.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.results import checksums, document_texts, groups
from jaxpaint.results import claims as results_claims
from jaxpaint.results import keys as results_keys
from jaxpaint.results import scores as results_scores
from jaxpaint.results.claims import Worker
from jaxpaint.results.damage import mend, reading
from jaxpaint.results.document_texts import DocumentText
from jaxpaint.results.groups import Group
from jaxpaint.results.keys import PlanRow
from jaxpaint.results.kinds import LATENCY
from jaxpaint.results.latency import Latency, LatencyRow, latencies
from jaxpaint.results.merge import merge
from jaxpaint.results.metrics import MetricRow
from jaxpaint.results.schema import LOCK_SECONDS, canonical_json, connect, explained, one, snapshot, transaction

__all__ = ["CellState", "MetricRow", "PlanRow", "Store", "Worker", "merge", "reading"]


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    `documents` is how many its metrics cover, None before the first are there. More scores turn a finished cell
    into a running one, which keeps the metrics it had until new ones are written.
    """

    status: Literal["running", "finished", "not finite"]
    documents: int | None
    seconds: float


class Store:
    """An open results store that reads and writes; a context manager. Ids are SQLite's row ids.

    Every method raises UserError when the disk is full or fails, or another program keeps the file locked:
    what earlier calls wrote is kept then, and of the failing one nothing.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, mended: str = "") -> None:
        """Use `Store.open`."""
        self.path = path
        self.mended = mended
        """What was found damaged and taken out, in words, so that a study computes it again; "" if nothing."""
        self.connection = connection
        """For SELECTs of one's own; all writing goes through the methods."""

    @classmethod
    def open(cls, path: Path, *, create: bool, timeout: float = LOCK_SECONDS) -> Store:
        """Opens the store at `path`; makes it if it is missing and `create` says so.

        `timeout`: seconds to wait where another program holds a lock. What is damaged is taken out.

        Raises:
            UserError: the file is missing, not a results store, of a newer version, cannot be written, or is damaged
                in other places than its rows.
        """
        connection = connect(path, create=create, timeout=timeout)
        try:
            return cls(path, connection, mend(connection, path))
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Closes the file; the last one to do so leaves a single file without companions."""
        self.connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a study is about: each is inserted or looked up -----------------------------------------------

    def model(self, *, fingerprint: str, dtype: str, source: str | None, revision: str | None, num_layers: int) -> int:
        """The id of a model computed in `dtype`; of what was said of it before, the first is kept."""
        key = {"fingerprint": fingerprint, "dtype": dtype}
        others = {"source": source, "revision": revision, "num_layers": num_layers}
        with self._writing() as connection:
            return results_keys.row_id(connection, "models", key, **others)

    def task(
        self,
        *,
        name: str,
        version: str,
        num_fewshot: int,
        bos: str,
        settings: Mapping[str, Any],
        chance: float | None,
        main_metric: str,
    ) -> int:
        """The id of a task; `settings` is everything else that changes its scores, `chance` the score of guessing."""
        key = {"name": name, "version": str(version), "num_fewshot": num_fewshot, "bos": bos}
        key["settings"] = canonical_json(settings)
        with self._writing() as connection:
            return results_keys.row_id(connection, "tasks", key, chance=chance, main_metric=main_metric)

    def group(self, group: Group, tasks: Mapping[str, int]) -> int:
        """The id of a group of tasks, whose members' ids these are; what it was said to be before gives way."""
        with self._writing() as connection:
            return groups.put(connection, group, tasks)

    def requests(self, task: int, entries: Sequence[tuple[int, int, str]]) -> list[int]:
        """The ids of a task's requests, given as (document, number among the document's, hash of its text).

        Raises:
            UserError: the store has another text for one of them.
        """
        with self._writing() as connection:
            return results_keys.request_ids(connection, task, entries)

    def documents_without_text(self, task: int, documents: Collection[int]) -> list[int]:
        """Those of a task's documents that `add_document_texts` was not given yet, ascending."""
        with self._reading() as connection:
            return document_texts.without_text(connection, task, documents)

    def add_document_texts(self, task: int, texts: Iterable[tuple[int, DocumentText]]) -> None:
        """Keeps what people see of a task's documents, shortened; those that are there stay."""
        with self._writing() as connection:
            document_texts.add(connection, task, texts)

    def plans(self, variants: Sequence[PlanRow]) -> list[int]:
        """The ids of the variants' plans, one each; variants with the same plan share an id.

        Raises:
            UserError: the store has another plan under one of the labels.
        """
        with self._writing() as connection:
            return [results_keys.plan_id(connection, row) for row in variants]

    def cells(self, model: int, task: int, plans: Sequence[int]) -> list[int]:
        """The ids of the cells of a model and a task, one per plan."""
        with self._writing() as connection:
            return results_keys.cell_ids(connection, model, task, plans)

    # --- what is missing, and who computes it ---------------------------------------------------------------

    def missing(self, cells: Sequence[int], requests: Sequence[int]) -> np.ndarray:
        """Which scores are not there yet: bool [cells, requests]. A request of another task misses nothing."""
        with self._reading() as connection:
            return results_scores.missing(connection, cells, requests)

    def claim(self, worker: Worker, cells: Sequence[int], requests: Sequence[int]) -> list[int]:
        """Makes `worker` the owner of requests, and returns those it owns now, in the order given.

        These are the ones that miss a score in some of `cells` (all of one model) and that no other live worker has;
        what dead workers had is taken over. All is settled in one transaction, so that two workers never compute one
        score: ask `missing` afterwards which of the requests' scores to compute, write them, then `release`. Those
        left out are either complete or others' work; `missing` tells which, and whether to come back later.
        """
        with self._writing() as connection:
            models = {one(connection, "SELECT model FROM cells WHERE id = ?", (int(cell),)) for cell in cells}
            if not models:
                return []
            (model,) = models
            missing = results_scores.missing(connection, cells, requests)
            incomplete = [int(requests[position]) for position in np.flatnonzero(missing.any(axis=0)).tolist()]
            return results_claims.take(connection, self.path, worker, model, incomplete)

    def release(self, worker: Worker, requests: Sequence[int] | None = None) -> None:
        """Gives up a worker's claims on `requests`; on all that it has without them."""
        with self._writing() as connection:
            results_claims.drop(connection, worker, requests)

    # --- results --------------------------------------------------------------------------------------------

    def add_scores(self, rows: Iterable[tuple[int, int, float, bool]], seconds: Mapping[int, float]) -> None:
        """Writes scores (cell, request, log-likelihood in nats, is_greedy), and the seconds that cells took.

        A log-likelihood that is not finite is stored as NULL. Scores that are there already stay as they are. A
        finished cell that gains a score is running again.
        """
        values = [
            (int(cell), int(request), results_scores.real(value), int(greedy), None)
            for cell, request, value, greedy in rows
        ]
        with self._writing() as connection:
            results_scores.add(connection, values, seconds)

    def add_texts(self, rows: Iterable[tuple[int, int, str | None]], seconds: Mapping[int, float]) -> None:
        """As `add_scores`, of a generative task: (cell, request, text), None where the logits were not finite."""
        values = [(int(cell), int(request), None, 0, text) for cell, request, text in rows]
        with self._writing() as connection:
            results_scores.add(connection, values, seconds)

    def texts(self, cell: int, requests: Sequence[int]) -> list[str | None]:
        """What a cell's plan wrote, None where its logits were not finite.

        Raises:
            LookupError: a request has no text yet.
        """
        with self._reading() as connection:
            return [text for (text,) in results_scores.read(connection, "text", cell, requests)]

    def scores(self, cell: int, requests: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A cell's log-likelihoods, float64 [requests], NaN where not finite, and whether greedy, bool [requests].

        Raises:
            LookupError: a request has no score yet.
        """
        with self._reading() as connection:
            rows = results_scores.read(connection, "loglikelihood, is_greedy", cell, requests)
        values, greedy = np.array(rows, dtype=np.float64).reshape(-1, 2).T  # NULL becomes NaN
        return values, greedy.astype(np.bool_)

    def states(self, cells: Sequence[int]) -> list[CellState]:
        """How far the cells are. A cell needs no work when it is not running and covers the documents wanted."""
        with self._reading() as connection:
            rows = connection.execute("SELECT id, status, documents, seconds FROM cells")
            stored = {id: CellState(*state) for id, *state in rows}
        return [stored[int(cell)] for cell in cells]

    def finished(self, model: int, task: int, metric: str) -> list[tuple[int, float, int | None]]:
        """A task's finished cells with their value of a metric, under its main filter: (cell, value, whether higher is
        better)."""
        with self._reading() as connection:
            return results_scores.finished(connection, model, task, metric)

    def finish(
        self,
        cell: int,
        *,
        documents: int,
        status: Literal["finished", "not finite"],
        metrics: Iterable[MetricRow],
        document_scores: Iterable[tuple[int, str, str, float | None]],
        environment: Mapping[str, Any] | None,
    ) -> None:
        """Ends a cell with metrics over `documents` documents, in place of those it had before.

        `document_scores`: (document, metric, filter, value). `environment`: the device and library versions.
        A status of 'not finite' says that some log-likelihood is; its metrics' values are None.
        """
        with self._writing() as connection:
            results_scores.finish(connection, cell, documents, status, metrics, document_scores, environment)

    def add_analysis(self, model: int, plan: int, name: str, settings: Mapping[str, Any], value: Any) -> None:
        """Keeps an analysis of hidden states, in place of an equal one: nested lists or an array of numbers."""
        with self._writing() as connection:
            results_keys.put_analysis(connection, model, plan, name, settings, _nested(value))

    def add_record(self, model: int, plan: int, name: str, settings: Mapping[str, Any], value: Sequence[Any]) -> None:
        """Keeps what is no measurement of texts' states (`kinds.APART`), in place of an equal one: lists as JSON."""
        with self._writing() as connection:
            results_keys.put_analysis(connection, model, plan, name, settings, value)

    def agreed(self, model: int, plan: int, name: str, settings: Mapping[str, Any], value: Sequence[Any]) -> Any:
        """As `add_record` where there is none of equal settings; what there is now, whichever process wrote it."""
        with self._writing() as connection:
            key = model, plan, name, settings
            if (known := results_keys.analysis(connection, *key)) is None:
                results_keys.put_analysis(connection, *key, value)
                known = results_keys.analysis(connection, *key)
        return known

    def latencies(self, model: int) -> list[LatencyRow]:
        """How long plans of a model took (`jaxpaint.results.latency.latencies`)."""
        with self._reading() as connection:
            return latencies(connection, model)

    def add_latencies(self, model: Mapping[str, Any], measured: Sequence[tuple[Plan, Latency]]) -> None:
        """Keeps how long plans of a model took, all of them or none, in place of what equal settings gave before.

        `model` are the arguments of `Store.model`. Plans get no strategy by it.
        """
        key = {name: model[name] for name in ("fingerprint", "dtype")}
        others = {name: model[name] for name in ("source", "revision", "num_layers")}
        with self._writing() as connection:
            model_id = results_keys.row_id(connection, "models", key, **others)
            for plan, latency in measured:
                what = {"text": str(plan)}
                plan_id = results_keys.row_id(connection, "plans", what, cost=plan.cost, depth=plan.depth)
                results_keys.put_analysis(
                    connection, model_id, plan_id, LATENCY, asdict(latency.setting), _nested(latency.value)
                )

    def analysis(self, model: int, plan: int, name: str, settings: Mapping[str, Any]) -> Any | None:
        """A stored analysis as nested lists, None in place of NaN in them; None if there is none."""
        with self._reading() as connection:
            return results_keys.analysis(connection, model, plan, name, settings)

    def add_run(
        self,
        worker: Worker,
        started: datetime,
        *,
        seconds: float,
        executed: int,
        distinct_work: int,
        separate: int,
        command: str | None,
    ) -> None:
        """Records a process's work so far; called again with the same worker and start, it replaces the record.

        `executed`, `distinct_work` and `separate` are layer applications x positions: what ran, the least that could
        have, and what plan by plan and answer by answer would have taken.
        """
        moment = started.astimezone(UTC).isoformat(timespec="microseconds")
        with self._writing() as connection:
            (run,) = connection.execute(
                "INSERT INTO runs (worker, started, seconds, executed, distinct_work, separate, command) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (worker, started) DO UPDATE SET seconds = excluded.seconds, "
                "executed = excluded.executed, distinct_work = excluded.distinct_work, separate = excluded.separate "
                "RETURNING id",
                (worker.id, moment, float(seconds), int(executed), int(distinct_work), int(separate), command),
            ).fetchone()
            checksums.seal(connection, "runs", [run])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with explained(self.path), transaction(self.connection):
            try:
                yield self.connection
            except UserError as error:
                raise UserError(f"results store {self.path}: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment's state, however many statements."""
        with explained(self.path), snapshot(self.connection):
            yield self.connection


def _nested(value: Any) -> Any:
    """Lists of lists of numbers, of whatever lengths, None for those that are not finite, which JSON cannot say."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_nested(each) for each in value]
    return float(value) if value is not None and math.isfinite(value) else None

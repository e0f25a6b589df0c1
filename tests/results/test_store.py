"""The results store: what is written comes back, what is missing is known, a finished cell stays finished."""

from __future__ import annotations

import math
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results.store import CellState, MetricRow, PlanRow, Store, Worker, reading
from tests.helpers.tiny_results import (
    ENVIRONMENT,
    FULL,
    LOOP,
    MODEL,
    OWN,
    PLANS,
    SKIP,
    TASKS,
    fill,
    loglikelihood,
    make_store,
)


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        yield store


def setting(store: Store, task: str = "arc_easy", documents: int = 3) -> tuple[list[int], list[int]]:
    """Cells of FULL and SKIP, requests of `documents` documents."""
    id = store.task(**TASKS[task])
    requests = store.requests(id, [(document, number, "x") for document in range(documents) for number in range(2)])
    return store.cells(store.model(**MODEL), id, store.plans([FULL, SKIP])), requests


# --- ids ----------------------------------------------------------------------------------------------------


def test_what_is_the_same_has_one_id(store: Store) -> None:
    assert store.model(**MODEL) == store.model(**MODEL)
    task = TASKS["arc_easy"]
    assert store.task(**task) == store.task(**task | {"settings": dict(reversed(task["settings"].items()))})
    assert setting(store) == setting(store)


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"version": "2"}, {"num_fewshot": 5}, {"bos": "on"}, {"settings": {"max_length": 65}}],
    ids=str,
)
def test_tasks_that_score_otherwise_are_other_tasks(store: Store, change: dict) -> None:
    assert store.task(**TASKS["arc_easy"]) != store.task(**TASKS["arc_easy"] | change)


def test_models_differ_by_weights_and_dtype(store: Store) -> None:
    changes = ({}, {"fingerprint": "other"}, {"dtype": "bfloat16"})
    assert len({store.model(**MODEL | change) for change in changes}) == 3
    assert store.model(**MODEL | {"source": "moved/elsewhere"}) == store.model(**MODEL)


def test_ids_come_in_the_order_asked_for(store: Store) -> None:
    first = store.plans(PLANS)
    assert store.plans(PLANS[::-1]) == first[::-1]
    task, model = store.task(**TASKS["arc_easy"]), store.model(**MODEL)
    entries = [(document, number, f"{document}") for document in range(5) for number in range(3)]
    requests = store.requests(task, entries)
    assert len(set(requests)) == len(entries)
    assert store.requests(task, entries[::-2]) == requests[::-2]
    cells = store.cells(model, task, first)
    assert store.cells(model, task, first[::-1]) == cells[::-1]


def test_a_plan_may_stand_for_several_strategies(store: Store) -> None:
    twin = PlanRow(SKIP.text, 6, 6, "custom", 8, "my own")
    assert len(set(store.plans([SKIP, twin, SKIP]))) == 1
    labels = store.connection.execute("SELECT label FROM variants").fetchall()
    assert sorted(labels) == [("my own",), ("skip start=2",)]


def test_another_text_of_a_request_is_refused(store: Store) -> None:
    task = store.task(**TASKS["arc_easy"])
    store.requests(task, [(0, 0, "a"), (0, 1, "b")])
    with pytest.raises(UserError, match=r"study\.sqlite: task arc_easy, document 0, request 1 has another text"):
        store.requests(task, [(7, 0, "new"), (0, 1, "changed")])
    assert store.connection.execute("SELECT document FROM requests").fetchall() == [(0,), (0,)]  # nothing of the call


def test_another_plan_under_a_label_is_refused(store: Store) -> None:
    store.plans([SKIP])
    with pytest.raises(UserError, match="'skip start=2' of 8 layers stands for the plan 0-2 5-7"):
        store.plans([PlanRow("0 7", 2, 2, "skip", 8, SKIP.label)])
    store.plans([PlanRow("0-2 7-9", 6, 6, "skip", 10, SKIP.label)])  # in a deeper model


# --- scores -------------------------------------------------------------------------------------------------


def test_scores_come_back_in_the_order_asked_for(store: Store) -> None:
    (cell, _), requests = setting(store)
    values = np.random.default_rng(0).normal(size=len(requests)) * 100
    greedy = values > 0
    store.add_scores(zip([cell] * len(requests), requests, values, greedy, strict=True), {cell: 2.0})
    got = store.scores(cell, requests[::-1])
    assert got[0].dtype == np.float64
    assert got[1].dtype == np.bool_
    np.testing.assert_array_equal(got[0], values[::-1])
    np.testing.assert_array_equal(got[1], greedy[::-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(store: Store, value: float) -> None:
    (cell, _), requests = setting(store)
    store.add_scores([(cell, requests[0], value, False)], {})
    assert store.connection.execute("SELECT loglikelihood FROM scores").fetchall() == [(None,)]
    assert np.isnan(store.scores(cell, requests[:1])[0]).all()
    assert not store.missing([cell], requests[:1]).any()  # it was computed


def test_a_score_that_is_there_stays(store: Store) -> None:
    (cell, _), requests = setting(store)
    store.add_scores([(cell, requests[0], -1.0, True)], {cell: 1.5})
    store.add_scores([(cell, requests[0], -9.0, False), (cell, requests[1], -2.0, False)], {cell: 0.5})
    assert [column.tolist() for column in store.scores(cell, requests[:2])] == [[-1.0, -2.0], [True, False]]
    assert store.states([cell]) == [CellState("running", None, 2.0)]


def test_scores_that_are_not_there_are_asked_for_in_vain(store: Store) -> None:
    (cell, other), requests = setting(store)
    store.add_scores([(cell, requests[0], -1.0, True)], {})
    with pytest.raises(LookupError, match=f"cell {cell} has no score for 1 requests, the first is {requests[1]}"):
        store.scores(cell, requests[:2])
    with pytest.raises(LookupError):
        store.scores(other, requests[:1])


def test_a_failing_write_writes_nothing(store: Store) -> None:
    (cell, _), requests = setting(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_scores([(cell, requests[0], -1.0, True), (cell, 12345, -1.0, True)], {cell: 1.0})
    assert store.missing([cell], requests).all()
    assert store.states([cell])[0].seconds == 0
    store.add_scores([(cell, requests[0], -1.0, True)], {})  # and the store works on


@pytest.mark.parametrize("every", [1, 3, 50])
def test_missing_says_which_scores_are_not_there(store: Store, every: int) -> None:
    """Against a plain set, with few and with many of a task's requests asked for, over two tasks."""
    random = np.random.default_rng(every)
    model, plans = store.model(**MODEL), store.plans(PLANS)
    cells, requests = [], []
    for name in TASKS:
        task = store.task(**TASKS[name])
        requests.append(store.requests(task, [(document, 0, "x") for document in range(300)]))
        cells.append(store.cells(model, task, plans))
    share = (0.0, 0.02, 0.98, 1.0)  # how much each plan has
    there = {
        (cell, request)
        for of_task, its_requests in zip(cells, requests, strict=True)
        for cell, part in zip(of_task, share, strict=True)
        for request in its_requests
        if random.random() < part
    }
    store.add_scores([(*key, -1.0, False) for key in there], {})
    rows = [*cells[1], *cells[0]]
    columns = random.permutation([*requests[0], *requests[1]])[::every]
    expected = [
        [(cell, request) not in there and (cell in cells[0]) == (request in requests[0]) for request in columns]
        for cell in rows
    ]
    np.testing.assert_array_equal(store.missing(rows, columns), expected)


def test_missing_of_nothing(store: Store) -> None:
    cells, requests = setting(store)
    assert store.missing(cells, []).shape == (2, 0)
    assert store.missing([], requests).shape == (0, 6)
    with pytest.raises(LookupError, match="no request 999"):
        store.missing(cells, [*requests, 999])
    with pytest.raises(LookupError, match="no cell 999"):
        store.missing([999], requests)


# --- finished cells -----------------------------------------------------------------------------------------


def test_finishing_replaces_metrics(store: Store) -> None:
    (cell, other), _ = setting(store)
    for value in (0.25, math.nan):
        store.finish(
            cell,
            documents=3,
            status="finished" if value == 0.25 else "not finite",
            metrics=[MetricRow("acc", "none", value, None, True)],
            document_scores=[(0, "acc", "none", value), (1, "acc", "none", 1)],
            environment=ENVIRONMENT,
        )
        kept = None if math.isnan(value) else value
        rows = store.connection.execute("SELECT metric, filter, value, stderr, higher_is_better FROM metrics")
        assert rows.fetchall() == [("acc", "none", kept, None, 1)]
        rows = store.connection.execute("SELECT document, value FROM document_scores ORDER BY document")
        assert rows.fetchall() == [(0, kept), (1, 1.0)]
    assert store.states([other, cell]) == [CellState("running", None, 0.0), CellState("not finite", 3, 0.0)]
    finished = store.connection.execute("SELECT finished FROM cells WHERE id = ?", (cell,)).fetchone()[0]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(finished)).total_seconds()) < 60


def test_more_documents_reopen_a_cell_that_keeps_its_metrics(store: Store) -> None:
    first, *rest = fill(store, documents=range(3))
    before = store.connection.execute("SELECT * FROM metrics").fetchall()
    ((_, requests), (_, more)) = setting_of(store, 3), setting_of(store, 4)
    store.add_scores([(first, requests[0], -5.0, True)], {})  # there already
    assert store.states([first])[0] == CellState("finished", 3, 1.0)
    store.add_scores([(first, more[-1], -5.0, True)], {first: 0.25})
    assert store.states([first])[0] == CellState("running", 3, 1.25)
    assert {state.status for state in store.states(rest)} == {"finished"}
    assert store.connection.execute("SELECT * FROM metrics").fetchall() == before


def setting_of(store: Store, documents: int) -> tuple[int, list[int]]:
    task = store.task(**TASKS["arc_easy"])
    keys = [(document, number) for document in range(documents) for number in range(2)]
    return task, store.requests(task, [(*key, f"arc_easy/{key[0]}/{key[1]}") for key in keys])


# --- analyses and runs --------------------------------------------------------------------------------------


def test_analyses_come_back(store: Store) -> None:
    model, (plan, other) = store.model(**MODEL), store.plans([FULL, SKIP])
    value = np.array([[1.0, 0.5], [math.nan, 1.0]])
    store.add_analysis(model, plan, "similarity", {"texts": 100, "task": "lambada"}, np.zeros((2, 2)))
    store.add_analysis(model, plan, "similarity", {"task": "lambada", "texts": 100}, value)
    assert store.analysis(model, plan, "similarity", {"texts": 100, "task": "lambada"}) == [[1.0, 0.5], [None, 1.0]]
    assert store.analysis(model, other, "similarity", {"texts": 100, "task": "lambada"}) is None
    assert store.analysis(model, plan, "similarity", {"texts": 50, "task": "lambada"}) is None


def test_a_run_is_one_record_that_grows(store: Store) -> None:
    started = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with Worker(store.path) as worker:
        for seconds in (5.0, 10.0):
            store.add_run(
                worker, started, seconds=seconds, executed=np.int64(9), distinct_work=8, separate=90, command="study"
            )
        rows = store.connection.execute("SELECT worker, seconds, executed, distinct_work, separate FROM runs")
        assert rows.fetchall() == [(worker.id, 10.0, 9, 8, 90)]


# --- what readers see ---------------------------------------------------------------------------------------


def test_views_join_the_ids_into_rows(tmp_path: Path) -> None:
    path = make_store(tmp_path / "study.sqlite")
    with reading(path) as connection:
        row = connection.execute(
            "SELECT model, dtype, num_fewshot, bos, strategy, start, iterations, cost, depth, value, documents, status "
            "FROM results WHERE task = 'lambada_openai' AND plan = ? AND metric = main_metric",
            (LOOP.text,),
        ).fetchall()
        assert row == [
            ("models/tiny", "float32", 5, "off", "looped-parallel", 2, 3, 12, 9, 12 / 16 + 0.004, 4, "finished")
        ]
        values = connection.execute(
            "SELECT document, number, loglikelihood, is_greedy FROM loglikelihoods "
            "WHERE task = 'arc_easy' AND plan = ? ORDER BY document, number",
            (OWN.text,),
        ).fetchall()
        assert values == [(d, n, loglikelihood(OWN, d, n), int(n == 0)) for d in range(4) for n in range(2)]
        (right,) = connection.execute(
            "SELECT sum(value) FROM document_results WHERE task = 'arc_easy' AND plan = ? AND metric = 'acc'",
            (FULL.text,),
        ).fetchone()
        assert right == 2
        (count,) = connection.execute("SELECT count(DISTINCT cell) FROM results").fetchone()
        assert count == 8


def test_a_cell_without_metrics_is_in_the_results_too(tmp_path: Path) -> None:
    with reading(make_store(tmp_path / "study.sqlite", finish=False)) as connection:
        rows = connection.execute("SELECT DISTINCT status, metric, value FROM results").fetchall()
    assert rows == [("running", None, None)]

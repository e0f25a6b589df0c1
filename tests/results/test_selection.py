"""Results chosen from a store: by task, strategy and metric, in order, and beside the full model's."""

from __future__ import annotations

import io
import math
import sqlite3
import statistics
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results.selection import COLUMNS, Selection
from jaxpaint.results.store import MetricRow, Store
from jaxpaint.results.tables import FORMATS, WHOLE, results_parquet, results_rows, results_text
from tests.helpers.tiny_results import ENVIRONMENT, FULL, LOOP, MODEL, OWN, SKIP, TASKS, make_store

RIGHT = {FULL: (1, 1, 1, 0), SKIP: (1, 0, 0, 0), LOOP: (1, 1, 1, 1), OWN: (0, 0, 1, 0)}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("results") / "study.sqlite")


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    """A store whose metric is the mean of its documents' scores."""
    path = tmp_path_factory.mktemp("documents") / "study.sqlite"
    with Store.open(path, create=True) as store:
        model, plans = store.model(**MODEL), store.plans(list(RIGHT))
        task = store.task(**TASKS["lambada_openai"])
        cells = store.cells(model, task, plans)
        for cell, right in zip(cells, RIGHT.values(), strict=True):
            stderr = statistics.stdev(right) / math.sqrt(len(right))
            metric = MetricRow("acc", "none", statistics.mean(right), stderr, True)
            scores = [(number, "acc", "none", float(value)) for number, value in enumerate(right)]
            found = {"metrics": [metric], "document_scores": scores, "environment": ENVIRONMENT}
            store.finish(cell, documents=len(right), status="finished", **found)
    return path


def labels(store: Path, **selection) -> list[str]:
    rows = results_rows(store, Selection(**selection, metric="acc"))
    return list(dict.fromkeys(row["label"] for row in rows))


def test_everything_is_what_the_view_has(store) -> None:
    with sqlite3.connect(store) as connection:
        columns = ", ".join(name for name in COLUMNS if name != "members")  # which are of groups of tasks
        known = connection.execute(f"SELECT {columns}, NULL FROM results").fetchall()
    rows = results_rows(store, Selection(columns=("all",)))
    assert sorted((tuple(row.values()) for row in rows), key=repr) == sorted(known, key=repr)
    assert "settings" not in results_rows(store)[0]


def test_by_task_strategy_and_metric(store) -> None:
    rows = results_rows(
        store, Selection(tasks=("arc_easy",), strategies=("skip",), columns=("task", "label", "metric"))
    )
    assert rows == [{"task": "arc_easy", "label": SKIP.label, "metric": name} for name in ("acc", "acc_norm")]
    (row,) = results_rows(store, Selection(strategies=("skip",), metric="perplexity"))
    assert (row["task"], row["value"]) == ("lambada_openai", 3.5 * SKIP.cost)


def test_in_order(store) -> None:
    assert labels(store, sort="cost") == [OWN.label, SKIP.label, FULL.label, LOOP.label]
    assert labels(store, sort="lambada_openai", top=2) == [LOOP.label, FULL.label]
    assert labels(store, top=1) == [LOOP.label]
    worst = results_rows(store, Selection(metric="perplexity", sort="score", top=1))
    assert worst[0]["label"] == OWN.label, "the lowest perplexity is the best"


def test_differences_are_paired_by_document(documents) -> None:
    rows = {row["plan"]: row for row in results_rows(documents, Selection(diff=True))}
    for plan, right in RIGHT.items():
        each = [own - full for own, full in zip(right, RIGHT[FULL], strict=True)]
        assert rows[plan.text]["difference"] == pytest.approx(statistics.mean(each))
        assert rows[plan.text]["difference_stderr"] == pytest.approx(statistics.stdev(each) / 2)


def test_a_metric_that_is_no_mean_of_documents_has_no_error(store) -> None:
    (row,) = results_rows(store, Selection(strategies=("skip",), metric="perplexity", diff=True))
    assert row["difference"] == 3.5 * (SKIP.cost - FULL.cost)
    assert row["difference_stderr"] is None


@pytest.mark.parametrize("format", sorted({*FORMATS} - {*WHOLE, "csv"}))
def test_documents_have_a_row_for_each_plan(format, documents) -> None:
    text = results_text(documents, format, Selection(sort="score"))
    places = [text.index(plan.label) for plan in (LOOP, FULL, SKIP)]
    assert places == sorted(places)
    for value in ("1.000", "0.750", "0.250"):
        assert value in text
    assert text.endswith("\n")


def test_a_table_of_latex_compiles_to_what_it_says(documents) -> None:
    lines = results_text(documents, "latex").splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if " & " in line]
    assert rows[0] == ["label", "cost", "depth", r"lambada\_openai"]
    assert rows[1] == ["full", "8", "8", r"0.750 $\pm$0.250"]
    assert {len(row) for row in rows} == {4}


def test_html_and_markdown_hold_no_markup_of_the_store(tmp_path) -> None:
    path = make_store(tmp_path / "store.sqlite", plans=(replace(OWN, label="a|b<script>"),), tasks=("arc_easy",))
    for format, expected in (("html", "a|b&lt;script&gt;"), ("markdown", r"a\|b\<script\>")):
        assert expected in results_text(path, format)


def test_parquet_has_numbers(documents) -> None:
    frame = pandas.read_parquet(io.BytesIO(results_parquet(documents, Selection(columns=("plan", "value", "start")))))
    assert frame.value.tolist() == [statistics.mean(right) for right in RIGHT.values()]
    assert frame.plan.tolist() == [plan.text for plan in RIGHT]
    assert math.isnan(frame.start[0])


def test_a_table_is_as_wide_as_it_may_be(store) -> None:
    narrow, wide = (results_text(store, "table", Selection(sort="cost"), width) for width in (50, 200))
    assert max(map(len, narrow.splitlines())) <= 57
    assert narrow.count(SKIP.label) == 3
    assert wide.count(SKIP.label) == 1


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ({"tasks": ("arc_eazy",)}, "--tasks arc_eazy is not there; did you mean arc_easy?"),
        ({"strategies": ("x",)}, "--strategies x is not there; there are custom, full, looped-parallel, skip"),
        ({"metric": "f1"}, "--metric f1 is not there; there are acc, acc_norm, perplexity"),
        ({"sort": "costs"}, "--sort costs is not there; did you mean cost?"),
    ],
)
@pytest.mark.parametrize("format", ["csv", "table"])
def test_what_there_is_not(store, selection, told, format) -> None:
    with pytest.raises(UserError) as caught:
        results_text(store, format, Selection(**selection))
    assert str(caught.value) == told


def test_mistakes(store) -> None:
    with pytest.raises(UserError, match="--top is 0"):
        Selection(top=0)
    with pytest.raises(UserError, match="--columns vlaue is not there; did you mean value"):
        Selection(columns=("vlaue",))
    for format in WHOLE:
        with pytest.raises(UserError, match=f"--format {format} has all of the store"):
            results_text(store, format, Selection(top=1))

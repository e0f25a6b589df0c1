"""A results store as text, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results import kinds
from jaxpaint.results.store import MetricRow, PlanRow, Store, merge
from jaxpaint.results.tables import FORMATS, results_text
from jaxpaint.tasks.load import results_table
from tests.helpers.tiny_results import ENVIRONMENT, FULL, LOOP, MODEL, OWN, PLANS, SKIP, TASKS, fill, make_store

TABLE = """\
models/tiny at main
float32, 8 layers, fingerprint abc123

                                           arc_easy   lambada_openai
                                                     5-shot, BOS off
                                      acc_norm, n=4         acc, n=4
full                                   0.604 ±0.015     0.504 ±0.015
skip start=2                           0.479 ±0.015     0.379 ±0.015
looped-parallel start=2 iterations=3   0.854 ±0.015     0.754 ±0.015
0 0 7                                  0.291 ±0.015     0.192 ±0.015
"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_store(tmp_path / "study.sqlite")


def not_finite(store: Store, cell: int) -> None:
    store.finish(
        cell,
        documents=4,
        status="not finite",
        metrics=[MetricRow(metric, "none", math.nan) for metric in ("acc", "acc_norm")],
        document_scores=[],
        environment=ENVIRONMENT,
    )


# --- table --------------------------------------------------------------------------------------------------


def test_the_table_is_read_by_people(whole: Path) -> None:
    assert results_text(whole, "table") == TABLE


def test_rows_stand_in_the_strategies_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    plans = [
        PlanRow(f"0-{start} 7", start + 2, start + 2, "skip", 8, f"skip start={start}", start=start)
        for start in (2, 0, 1)
    ]
    shards = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    make_store(shards[0], plans=[plans[0], FULL])
    make_store(shards[1], plans=plans[1:])
    merge(tmp_path / "merged.sqlite", shards)
    rows = [line.split("  ")[0] for line in results_text(tmp_path / "merged.sqlite", "table").splitlines()[6:]]
    assert rows == ["skip start=0", "skip start=1", "skip start=2", "full"]


def test_what_is_not_a_number_is_said_in_words(tmp_path: Path) -> None:
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        cells = fill(store, tasks=["arc_easy"], plans=[FULL, SKIP])
        not_finite(store, cells[0])
        fill(store, tasks=["arc_easy"], plans=[LOOP], finish=False)
        fill(store, tasks=["lambada_openai"], plans=[OWN])
        request = store.requests(1, [(9, 0, "more")])[0]
        store.add_scores([(cells[1], request, -1.0, True)], {})
    lines = [line.split() for line in results_text(store.path, "table").splitlines()[6:]]
    assert lines[0] == ["full", "not", "finite", "-"]
    assert lines[1] == ["skip", "start=2", "0.479", "±0.015*", "-"]
    assert lines[2] == ["looped-parallel", "start=2", "iterations=3", "running", "-"]
    assert lines[3] == ["0", "0", "7", "-", "0.192", "±0.015"]
    assert " ".join(lines[5]) == "* of fewer documents: more are being scored"


def test_many_tasks_stand_in_blocks_that_fit_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    with Store.open(path, create=True) as store:
        model, plans = (
            store.model(**MODEL),
            store.plans([FULL, PlanRow("0 " * 99 + "7", 100, 100, "custom", 8, "0 " * 99)]),
        )
        for number in range(7):
            task = store.task(**TASKS["arc_easy"] | {"name": f"benchmark_{number}"})
            for cell in store.cells(model, task, plans):
                row = MetricRow("acc_norm", "none", 10.0 ** (number - 2), 0.01)
                store.finish(
                    cell, documents=1000, status="finished", metrics=[row], document_scores=[], environment=None
                )
    text = results_text(path, "table")
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("\nfull ") == 4
    assert all(f"benchmark_{number}" in text for number in range(7))
    for shown in ("0.010 ±0.010", "1.000 ±0.010", "1e+04 ±0.010"):
        assert shown in text


def test_tasks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        model, plans = store.model(**MODEL), store.plans([FULL])
        for change in ({}, {"num_fewshot": 5}, {"num_fewshot": 5, "bos": "on"}, {"settings": {"max_length": 9}}):
            store.cells(model, store.task(**TASKS["arc_easy"] | change), plans)
    headings = results_text(store.path, "table").splitlines()[3:5]
    assert headings[0].split() == ["arc_easy"] * 4
    assert headings[1].replace("5-shot, BOS on", "both").split() == ["#1", "#4", "5-shot", "both"]


def test_caches_of_a_task_that_writes_are_told_apart(tmp_path: Path) -> None:
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        model, plans = store.model(**MODEL), store.plans([FULL])
        for kv in ("exact", "mean"):
            task = {**TASKS["arc_easy"], "name": "gsm8k", "num_fewshot": 5, "settings": {"kv": kv}}
            store.cells(model, store.task(**task), plans)
    headings = results_text(store.path, "table").splitlines()[3:5]
    assert headings[0].split() == ["gsm8k"] * 2
    assert headings[1].split("  ")[-2:] == ["5-shot", "5-shot, kv mean"]


def test_every_model_has_its_own_rows(tmp_path: Path, whole: Path) -> None:
    """A plan stands for other strategies in a model of another depth."""
    other = tmp_path / "other.sqlite"
    with Store.open(other, create=True) as store:
        model = store.model(fingerprint="def", dtype="bfloat16", source=None, revision=None, num_layers=12)
        plans = store.plans([PlanRow(SKIP.text, 6, 6, "custom", 12, "my own")])
        store.cells(model, store.task(**TASKS["arc_easy"]), plans)
    merge(whole, [other])
    first, second = results_text(whole, "table").split("\n\nmodel\n")
    assert first + "\n" == TABLE
    assert second.splitlines()[0] == "bfloat16, 12 layers, fingerprint def"
    assert second.splitlines()[-1].split() == ["my", "own", "running"]
    assert "skip" not in second


def test_a_store_without_results(tmp_path: Path) -> None:
    Store.open(tmp_path / "new.sqlite", create=True).close()
    assert results_text(tmp_path / "new.sqlite", "table") == "no results yet\n"
    assert results_text(tmp_path / "new.sqlite", "csv").count("\n") == 1
    assert json.loads(results_text(tmp_path / "new.sqlite", "json"))["cells"] == []
    assert json.loads(results_text(tmp_path / "new.sqlite", "lm-eval")) == []


def test_what_is_no_table_is_named_below(tmp_path: Path, whole: Path) -> None:
    """Each plan counts once, whatever was read of its states; what plans took has a table of its own."""
    with Store.open(whole, create=False) as store:
        model, plans = store.model(**MODEL), store.plans([FULL, SKIP])
        for plan in plans:
            store.add_analysis(model, plan, "similarity", {}, [[1.0]])
            store.add_analysis(model, plan, "entropy", {}, [1.0])
        store.add_record(model, plans[0], kinds.STORY, {}, [])
        store.add_record(model, plans[0], kinds.LATENCY, {}, [])
    shown = results_text(whole, "table")
    assert shown.startswith(TABLE)
    assert shown[len(TABLE) :].split("\n") == [
        "",
        "Kept, and drawn by `jaxpaint report`:",
        "  what hidden states are like: 2 plans",
        "  the story of one prompt: 1 plan",
        "",
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_errors_are_one_line(tmp_path: Path, whole: Path, format: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        results_text(tmp_path / "missing.sqlite", format)
    with pytest.raises(UserError, match="unknown format 'xml' of results; the formats are table, csv, json, lm-eval"):
        results_text(whole, "xml")
    assert list(tmp_path.iterdir()) == [whole]


# --- programs -----------------------------------------------------------------------------------------------


def test_csv_has_a_row_per_metric(whole: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(results_text(whole, "csv"))))
    assert len(rows) == len(PLANS) * 4
    (row,) = [
        row
        for row in rows
        if row["label"] == LOOP.label and row["task"] == "lambada_openai" and row["metric"] == "perplexity"
    ]
    assert row["finished"]
    row.pop("finished")
    assert row == {
        "model": "models/tiny",
        "revision": "main",
        "fingerprint": "abc123",
        "dtype": "float32",
        "num_layers": "8",
        "task": "lambada_openai",
        "version": "1.0",
        "num_fewshot": "5",
        "bos": "off",
        "chance": "",
        "plan": LOOP.text,
        "cost": "12",
        "depth": "9",
        "strategy": "looped-parallel",
        "label": LOOP.label,
        "start": "2",
        "seed": "",
        "iterations": "3",
        "times": "",
        "layer": "",
        "affected": "",
        "metric": "perplexity",
        "main_metric": "acc",
        "filter": "none",
        "value": "42.0",
        "stderr": "",
        "higher_is_better": "0",
        "documents": "4",
        "status": "finished",
        "seconds": "1.0",
        "members": "",
    }


def test_csv_computes_nothing_in_a_spreadsheet_and_json_is_exact(tmp_path: Path) -> None:
    name = "=HYPERLINK(1)\x1b"
    with Store.open(tmp_path / "s.sqlite", create=True) as store:
        fill(store)
        store.connection.execute("UPDATE models SET source = ?", (name,))
        store.connection.execute("DELETE FROM checksums")  # as though written so
    rows = list(csv.DictReader(io.StringIO(results_text(tmp_path / "s.sqlite", "csv"))))
    assert {row["model"] for row in rows} == {r"'=HYPERLINK(1)\x1b"}
    assert json.loads(results_text(tmp_path / "s.sqlite", "json"))["models"][0]["source"] == name


def test_json_holds_the_stores_tables(whole: Path) -> None:
    with Store.open(whole, create=False) as store:
        store.add_analysis(1, 2, "variance", {"texts": 100}, [1.0, math.nan])
    found = json.loads(results_text(whole, "json"))
    assert found["version"] == 2
    assert found["models"] == [{"id": 1, **MODEL}]
    assert [{**task, "id": None} for task in found["tasks"]] == [{**task, "id": None} for task in TASKS.values()]
    assert [plan["text"] for plan in found["plans"]] == [plan.text for plan in PLANS]
    assert [variant["label"] for variant in found["variants"]] == [plan.label for plan in PLANS]
    assert [environment["description"] for environment in found["environments"]] == [ENVIRONMENT]
    assert len(found["cells"]) == 8
    assert found["cells"][1]["status"] == "finished"
    assert found["cells"][1]["metrics"] == [
        {"metric": name, "filter": "none", "value": value, "stderr": 0.0145, "higher_is_better": 1}
        for name, value in (("acc", 6 / 16 + 0.004), ("acc_norm", 6 / 16 + 0.004 + 0.1))
    ]
    assert found["analyses"] == [
        {"model": 1, "plan": 2, "name": "variance", "settings": {"texts": 100}, "value": [1.0, None]}
    ]
    assert not {"scores", "document_scores", "requests"} & found.keys()


def test_lm_eval_reads_one_object_per_plan(whole: Path) -> None:
    found = json.loads(results_text(whole, "lm-eval"))
    assert [each["config"]["plan"] for each in found for _ in each["results"]] == [
        plan.text for _ in TASKS for plan in PLANS
    ]
    (object, _) = [each for each in found if each["config"]["plan"] == SKIP.text]
    assert object["results"] == {
        "arc_easy": {
            "name": "arc_easy",
            "alias": "arc_easy",
            "sample_len": 4,
            "acc,none": 0.379,
            "acc_stderr,none": 0.0145,
            "acc_norm,none": 0.479,
            "acc_norm_stderr,none": 0.0145,
        }
    }
    assert object["versions"] == {"arc_easy": 1.0}
    assert object["n-shot"] == {"arc_easy": 0}
    assert object["n-samples"] == {"arc_easy": {"effective": 4}}
    assert object["higher_is_better"] == {"arc_easy": {"acc": True, "acc_norm": True}}
    expected = {
        "model": "jaxpaint",
        "model_source": "models/tiny",
        "model_revision": "main",
        "model_fingerprint": "abc123",
        "model_num_layers": 8,
        "plan": SKIP.text,
        "plan_cost": 6,
        "plan_depth": 6,
        "plan_labels": ["skip start=2"],
        "bos": "auto",
        "dtype": "float32",
        "weights": "float",
        "max_length": 64,
    }
    assert object["config"] == expected
    assert object["environment"] == ENVIRONMENT
    assert object["timing"] == {"device_seconds": 1.0}
    assert "|acc_norm|↑|0.479|±|0.0145|" in results_table(object).replace(" ", "")
    assert [each["results"]["lambada_openai"]["perplexity_stderr,none"] for each in found[4:]] == ["N/A"] * 4


def test_lm_eval_objects_hold_tasks_once_and_finished_cells_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        cells = fill(store, tasks=["arc_easy"], plans=[FULL, SKIP])
        model, plans = store.model(**MODEL), store.plans([FULL])
        for change in ({"num_fewshot": 5}, {"name": "arc_challenge"}):
            (cell,) = store.cells(model, store.task(**TASKS["arc_easy"] | change), plans)
            not_finite(store, cell)
        fill(store, plans=[LOOP], finish=False)
        store.add_scores([(cells[1], store.requests(1, [(9, 0, "more")])[0], -1.0, True)], {})
    found = json.loads(results_text(store.path, "lm-eval"))
    assert [(each["config"]["plan"], each["n-shot"]) for each in found] == [
        (FULL.text, {"arc_easy": 0, "arc_challenge": 0}),
        (FULL.text, {"arc_easy": 5}),
    ]
    assert found[1]["results"]["arc_easy"]["acc,none"] is None
    assert "acc_norm" in results_table(found[1])

"""jaxpaint results and report, on stores made without a model."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from jaxpaint.results.selection import Selection
from jaxpaint.results.tables import results_parquet, results_rows, results_text
from tests.helpers.tiny_results import PLANS, make_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def study(tmp_path) -> Path:
    return make_store(tmp_path / "study.sqlite")


@pytest.mark.parametrize("format", ["table", "csv", "json", "lm-eval"])
def test_formats(format, run, study, tmp_path) -> None:
    shown = run("results", study, "--format", format)
    assert shown == (0, results_text(study, format), "")
    file = tmp_path / "out"
    file.write_text("of an earlier run")
    assert run("results", study, "--format", format, "--output", file) == (0, f"wrote {file}\n", "")
    assert file.read_text() == shown[1]


def test_a_device_gets_the_text_alone_and_stays(run, study) -> None:
    before = os.stat(os.devnull)
    assert run("results", study, "--output", os.devnull) == (0, "", "")
    assert os.stat(os.devnull).st_ino == before.st_ino
    if Path("/dev/stdout").exists():
        text = results_text(study, "csv")
        assert run("results", study, "--format", "csv", "--output", "/dev/stdout") == (0, text, "")


def test_the_formats_hold_the_plans(run, study) -> None:
    assert run("results", study)[1] == run("results", study, "--format", "table")[1]
    assert all(plan.label in run("results", study)[1] for plan in PLANS)
    rows = csv.DictReader(io.StringIO(run("results", study, "--format", "csv")[1]))
    assert {row["plan"] for row in rows} == {plan.text for plan in PLANS}
    assert len(json.loads(run("results", study, "--format", "json")[1])["plans"]) == len(PLANS)


def test_merge(run, tmp_path) -> None:
    first = make_store(tmp_path / "first.sqlite", plans=PLANS[:2])
    second = make_store(tmp_path / "second.sqlite", plans=PLANS[1:])
    joined = tmp_path / "joined.sqlite"
    assert run("results", "--merge", joined, first, second) == (0, f"merged 2 stores into {joined}\n", "")
    assert results_text(joined, "table") == results_text(make_store(tmp_path / "whole.sqlite"), "table")


def test_report(run, study, tmp_path) -> None:
    status, out, err = run("report", study, "-o", tmp_path / "report")
    assert (status, err) == (0, "")
    assert out.startswith("\ntiny, BOS auto (8 layers): 4 plans.\n")
    assert "  3  0 0 7\n" in out
    assert out.endswith(f"\nreport: {tmp_path / 'report' / 'report.html'}\n")
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_report_without_a_place_goes_beside_the_store(run, study) -> None:
    assert run("report", study)[0] == 0
    assert (study.parent / "study-report" / "report.html").is_file()


def test_chosen_results(run, refused, study, tmp_path, monkeypatch) -> None:
    """What `jaxpaint.results.selection` chooses, by the options' names."""
    chosen = Selection(tasks=("arc_easy",), strategies=("skip", "full"), sort="cost", diff=True)
    words = ("--tasks", "arc_easy", "--strategies", "skip,full", "--sort", "cost", "--diff", "full")
    monkeypatch.setenv("COLUMNS", "200")
    assert run("results", study, *words) == (0, results_text(study, "table", chosen, 200), "")
    assert json.loads(run("results", study, *words, "--json")[1])["rows"] == results_rows(study, chosen)
    file = tmp_path / "x.parquet"
    columns = ("--columns", "plan,value", "--metric", "acc", "--top", 1)
    assert run("results", study, *columns, "--format", "parquet", "-o", file) == (0, f"wrote {file}\n", "")
    expected = Selection(columns=("plan", "value"), metric="acc", top=1)
    assert file.read_bytes() == results_parquet(study, expected)
    refused("results", study, "--format", "parquet", expected=("is no text", "--output"))
    refused("results", study, "--format", "lm-eval", "--top", 1, expected=("has all of the store",))
    refused("results", study, "--per-document", "--top", 1, expected=("leave --format",))


def test_mistakes(refused, run, study, tmp_path) -> None:
    (tmp_path / "text").write_text("not a store")
    refused("results", tmp_path / "absent", expected=("absent does not exist",))
    refused("results", tmp_path / "text", expected=("not a results store",))
    refused("results", study, study, expected=("2 stores given; name one", "--merge"))
    refused("results", study, "--format", "xml", expected=("--format", "'xml'", "lm-eval"))
    refused("results", study, "--output", tmp_path, expected=("--output", "is a folder"))
    refused("results", study, "--output", tmp_path / "no" / "x", expected=("--output", "does not exist"))
    refused("results", study, "--output", study, expected=("is the store itself",))
    refused("results", "--merge", tmp_path / "out", expected=("FILE",))
    refused("results", "--merge", tmp_path / "out", study, "--format", "csv", expected=("--format does not go with",))
    refused("results", "--merge", tmp_path / "out", tmp_path / "absent", expected=("absent does not exist",))
    refused("report", tmp_path / "absent", "-o", tmp_path / "report", expected=("absent does not exist",))
    refused("report", study, "-o", study, expected=("is a file",))
    assert run("results", study)[0] == 0
    assert not (tmp_path / "out").exists()

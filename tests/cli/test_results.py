"""jaxpaint results and report, on stores made without a model."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from jaxpaint.results.tables import results_text
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
    refused("report", study, expected=("-o/--output",))
    refused("report", tmp_path / "absent", "-o", tmp_path / "report", expected=("absent does not exist",))
    refused("report", study, "-o", study, expected=("is a file",))
    assert run("results", study)[0] == 0
    assert not (tmp_path / "out").exists()

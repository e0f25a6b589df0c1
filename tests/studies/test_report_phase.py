"""The report's own time: in the phases of a study, in the time left, and in a dry run."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from jaxpaint.base import progress
from jaxpaint.base.progress import Advance, bar, under_way
from jaxpaint.report.duration import report_seconds
from jaxpaint.studies.phases import Phases
from tests.helpers.cli_fixtures import Terminal


def test_it_is_the_last_phase() -> None:
    told: list[tuple[Any, ...]] = []

    def start(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
        told.append((total, phase, later, beyond))
        return lambda amount, note="": None

    phases = Phases({"scoring": 1000.0, "writing": 0, "analyses": 500}, 12.5)
    assert phases.names == ["scoring", "analyses", "report"]
    phases.of("scoring", start)(1000)
    phases.of("analyses", start)(500)
    assert told == [(1000, "scoring (1 of 3)", 500.0, 12.5), (500, "analyses (2 of 3)", 0.0, 12.5)]
    Phases({"scoring": 1000.0}).of("scoring", start)(1000)
    assert told[-1] == (1000, "", 0.0, 0.0)


def test_its_seconds_are_left_at_the_end_of_the_last_bar(capsys, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar("study") as start:
        advance = start(1000, "scoring (1 of 2)", beyond=90.0)
        now[0] += 61
        advance(500)
        now[0] += 61
        advance(500)
    half, whole = capsys.readouterr().err.splitlines()
    assert half.endswith("01:01 gone, 02:31 left")
    assert whole.endswith("02:02 gone, 01:30 left")


def test_it_is_named_while_it_is_written(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with under_way("report: intervals and figures …"):
        assert "report: intervals and figures …" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r"), "and gone after it"


def test_elsewhere_nothing_is_said_of_it(capsys) -> None:
    with under_way("report: intervals and figures …"):
        pass
    assert capsys.readouterr() == ("", "")


def test_more_plans_and_documents_take_longer() -> None:
    assert report_seconds(2, 10) < report_seconds(200, 100) < report_seconds(200, 10_000) < 600


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_of_the_users")
def test_a_dry_run_has_it_where_a_report_is_asked(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("study", "--model", "painter-16", "--tasks", "painter_facts", "--limit", 4, "--store", "s.sqlite")
    document = json.loads(run(*words, "--report", "pages", "--dry-run", "--json")[1])
    assert document["numbers"]["report_seconds"] == report_seconds(1, 4)
    assert document["lines"][-1].startswith("report  about ")
    assert "report_seconds" not in json.loads(run(*words, "--dry-run", "--json")[1])["numbers"]

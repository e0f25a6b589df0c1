"""The texts of documents that flipped: on the page, in the tables, escaped, and left away where a study keeps none."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report import write_report
from jaxpaint.report.plans_page import MOST_DOCUMENTS
from jaxpaint.results.document_texts import DocumentText
from tests.helpers.report_store import FakeModel, FakeTask, add_texts, write_store

LAYERS = 4
SCRIPT = "</script><script>alert('x')</script> | =1+1"


def page_data(page: Path) -> dict[str, Any]:
    """What the page's script reads, of its only study."""
    (found,) = re.findall(r'<script type="application/json" class="plans-data">(.*?)</script>', page.read_text())
    return json.loads(found)


def table(report: Path) -> list[dict[str, str]]:
    with (report / "tables" / "flipped.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_texts_stand_beside_what_flipped_escaped_and_once(tmp_path: Path) -> None:
    """The worse plan loses more documents than the page lists; the better one gains some."""
    shares = {"0-3": 0.5, "0-2": 0.1, "1-3": 0.52}
    variants = [build("full", LAYERS), *(Variant(CUSTOM, Plan.parse(text), LAYERS) for text in list(shares)[1:])]
    task = FakeTask("t", lambda variant: shares[str(variant.plan)], documents=500)
    store = write_store(tmp_path / "s.sqlite", FakeModel(variants, [task], LAYERS))
    texts = {number: DocumentText(f"which is {number}?", f"={number}") for number in range(500)}
    texts[50] = DocumentText(SCRIPT, "yes")
    add_texts(store, "t", texts)
    page = write_report(store, tmp_path / "report")
    shown = {*range(50, 50 + MOST_DOCUMENTS), *range(250, 260)}
    (found,) = page_data(page)["texts"]
    assert {int(number): tuple(text) for number, text in found.items()} == {n: texts[n] for n in shown}
    assert "alert('x')" not in page.read_text()
    assert page.read_text().count("which is 51?") == 1
    rows = table(page.parent)
    assert {int(row["document"]) for row in rows} == {*range(50, 260)}
    first = rows[0]
    assert (first["question"], first["right answer"], first["full model"], first["their ranks"]) == (
        *(SCRIPT, "yes"),
        *("right", "3"),
    )
    gained = next(row for row in rows if row["document"] == "250")
    assert (gained["right answer"], gained["full model"], gained["their ranks"]) == ("'=250", "wrong", "1")
    assert "<script>" not in (page.parent / "tables" / "flipped.md").read_text().replace("\\<script\\>", "")


@pytest.mark.slow
def test_a_study_keeps_texts_unless_it_is_told_not_to(run, tmp_path: Path) -> None:
    store, private = tmp_path / "study.sqlite", tmp_path / "private.sqlite"
    words = ["study", "--model", "painter-16", "--tasks", "painter_facts", "--limit", 8, "--plan", "0 15"]
    for path, more in ((private, ["--no-document-texts"]), (store, [])):
        status, _, err = run(*words, "--store", path, *more)
        assert status == 0, err
        assert run("report", path, "-o", path.with_suffix(""))[0] == 0
    flipped, bare = (table(path.with_suffix("")) for path in (store, private))
    assert flipped
    assert all(re.fullmatch(r"question : what is the \w+ of \w+ \? answer :", row["question"]) for row in flipped)
    assert all(row["right answer"] for row in flipped)
    assert [row | {"question": "", "right answer": ""} for row in flipped] == bare
    page = store.with_suffix("") / "report.html"
    assert flipped[0]["question"] in page.read_text()
    assert page_data(private.with_suffix("") / "report.html")["texts"] == [{}]
    with closing(sqlite3.connect(private)) as connection:
        assert connection.execute("SELECT count(*) FROM document_texts").fetchone() == (0,)

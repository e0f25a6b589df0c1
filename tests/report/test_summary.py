"""What a report says in a few lines: of studies with various answers, and of a store that has none."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import get_args

import pytest

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build, family
from jaxpaint.report import SUMMARY, write_report
from jaxpaint.report.data import read_store
from jaxpaint.report.evidence import Verdict
from jaxpaint.report.findings import answers
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.summary import summary
from tests.helpers.report_store import FakeModel, FakeTask, write_store

LAYERS = 16
SHARES = {"full": 1.0, "skip": 0.3, "middle-repeat": 0.1, "random": 0.8, "parallel": 0.6, "reverse": 0.5}


def model(source: str = "example/tiny", **shares: float) -> FakeModel:
    share = SHARES | shares
    plans = [v for name in share for v in family(name, LAYERS, seeds=range(2))]
    tasks = [
        FakeTask("lambada_openai", lambda v: 0.8 * (1.0 if v.affected == 1 else share[v.strategy]), documents=400),
        FakeTask("winogrande", lambda v: 0.5, chance=0.5, documents=400),
    ]
    return FakeModel(plans, tasks, LAYERS, source, fingerprint=source)


def lines(path: Path, **shares: float) -> list[str]:
    (study,) = read_store(write_store(path, model(**shares)))
    measured = Measurements.of(study)
    return summary("tiny", measured, answers(measured)).splitlines()


@pytest.mark.slow
def test_what_models_say_stands_beside_each_other(tmp_path: Path) -> None:
    """Where the second model's layers can be skipped as well as run side by side."""
    store = write_store(tmp_path / "study", model(), model("example/a-name-that-is-long", skip=0.9, parallel=0.2))
    text = (write_report(store, tmp_path / "out").parent / SUMMARY).read_text()
    heads, *questions = text[text.index("Across models") :].splitlines()[1:]
    assert heads.split() == ["tiny", "a-name-that-…"]
    assert {line[0]: re.split("  +", line)[2:] for line in questions if line} == {
        "2": ["open", "open"],
        "3": ["holds", "holds"],
        "4": ["holds", "holds"],
        "5": ["holds", "does not hold"],
        "8": ["open", "open"],
    }
    with open(tmp_path / "out" / "tables" / "across-strategies.csv") as table:
        left = {row["strategy"]: float(row["a-name-that-is-long"]) for row in csv.DictReader(table)}
    assert left["skip"] > 0.8 > 0.3 > left["parallel"]


@pytest.mark.smoke
def test_it_counts_what_holds_and_says_what_is_left(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert max(map(len, found)) <= 80
    text = " ".join(found)
    assert text.startswith("Of the paper's 8 findings 3 hold, 2 are open and 3 are not asked on tiny (16 layers). From")
    assert "random order (0.80), parallel (0.60), reverse (0.50), skip (0.30), middle repeat (0.10)." in text
    assert [line.split()[:2] for line in found if re.match(r"\d  ", line)] == [
        *(["2", "open"], ["3", "holds"], ["4", "holds"], ["5", "holds"], ["8", "open"]),
    ]


def test_every_finding_is_said_in_words_that_its_verdict_fits(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert "3  holds          The middle layers do different things: repeating one of them" in found
    at = found.index(next(line for line in found if line.startswith("8  open")))
    text = " ".join(" ".join(found[at:]).split())
    assert "Not enough data: this takes the strategies random, looped-parallel," in text
    assert "Not asked here: questions 1 takes the similarity analysis" in text
    assert "7 takes the strategies parallel and looped-parallel." in text


def test_tasks_are_shown_against_chance_and_those_left_out_have_a_reason(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert "lambada_openai  acc            0.800 ± 0.020    0.00" in found
    assert "winogrande      acc            0.500 ± 0.025    0.50  left out*" in found
    assert any(line.startswith("* winogrande: the full model's acc of 0.500 ± 0.025 is not above") for line in found)


def test_singular_and_plural(tmp_path: Path) -> None:
    text = " ".join(lines(tmp_path / "study", **{"random": 0.2, "parallel": 0.2}))
    assert text.startswith("Of the paper's 8 findings 1 holds, 1 holds in part, 1 does not, 2 are open and 3")


@pytest.mark.slow
def test_a_report_keeps_it_for_every_study(tmp_path: Path) -> None:
    both = write_store(tmp_path / "both.sqlite", model("example/one"), model("example/two", skip=0.2))
    text = (write_report(both, tmp_path / "report").parent / SUMMARY).read_text()
    assert text.count("Of the paper's 8 findings") == 2
    assert text.index("on one (16") < text.index("on two (16")


def own_plans(path: Path, *tasks: FakeTask) -> Path:
    texts = ("0-3 5-15", "0-3 8-15", " ".join(map(str, (*range(0, 16, 2), *range(1, 16, 2), 0, 2))))
    own = [Variant(CUSTOM, Plan.parse(text), LAYERS) for text in texts]
    return write_store(path, FakeModel([build("full", LAYERS), *own], tasks, LAYERS))


def test_of_ones_own_plans_it_shows_the_scores_best_first(tmp_path: Path) -> None:
    task = FakeTask("arc_easy", lambda v: 0.3 + 0.01 * v.plan.cost, chance=0.25, documents=200)
    text = (write_report(own_plans(tmp_path / "s", task), tmp_path / "out").parent / SUMMARY).read_text()
    found = text.splitlines()
    assert max(map(len, found)) <= 80
    assert "open" not in text
    assert found[0] == "Tiny-Model (16 layers): 4 plans."
    assert [line.split()[0] for line in found if line.startswith("0.")] == ["0.480", "0.460", "0.450", "0.420"]
    assert "0.450     -0.010  -0.03 to +0.00  0.480    15  0-3 5-15" in found
    assert any(line.endswith("16  full model") for line in found)
    assert any(line.endswith("…") for line in found)
    assert "p after Holm over 3 plans" in " ".join(found)


def test_two_tasks_have_a_column_each(tmp_path: Path) -> None:
    tasks = [FakeTask(name, lambda v: 0.5, documents=100) for name in ("one_task_of_a_long_name", "two")]
    text = (write_report(own_plans(tmp_path / "s", *tasks), tmp_path / "out").parent / SUMMARY).read_text()
    assert "score  one_task_of…    two  less full" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_plan_keeps_its_name_beside_tasks(tmp_path: Path) -> None:
    """Of two tasks the interval makes room, three long ones are in the report alone."""
    names = ("painter_facts", "painter_places", "painter_work")
    for number in (2, 3):
        tasks = [FakeTask(name, lambda v: 0.3 + 0.01 * v.plan.cost, chance=0.25, documents=100) for name in names]
        (study,) = read_store(own_plans(tmp_path / f"{number}", *tasks[:number]))
        text = summary("tiny", Measurements.of(study), ())
        assert max(map(len, text.splitlines())) <= 80
        assert re.search(r"^0\.450  .*  15  0-3 5-15$", text, re.MULTILINE)
        assert ("painter_fac…" in text, "interval" in text) == (number == 2, number == 3)


def test_page_terminal_and_table_have_the_same_verdicts(tmp_path: Path) -> None:
    report = write_report(write_store(tmp_path / "s", model()), tmp_path / "out")
    told = dict(re.findall(r"^(\d)  (\S.*?)  ", (report.parent / SUMMARY).read_text(), re.MULTILINE))
    with (report.parent / "tables" / "answers.csv").open() as file:
        assert {row["question"]: row["verdict"] for row in csv.DictReader(file)} == told
    page = report.read_text()
    parts = re.findall(r'<h3>(\d)\. .*?<span class="verdict [\w-]+">([^<]+)</span>', page, re.DOTALL)
    assert dict(parts) == told
    assert set(told.values()) <= set(get_args(Verdict))

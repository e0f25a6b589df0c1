"""What a report says in a few lines: of studies with various answers, and of a store that has none."""

from __future__ import annotations

from pathlib import Path

from jaxpaint.plans.strategies import family
from jaxpaint.report import SUMMARY, write_report
from jaxpaint.report.data import read_store
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


def test_it_counts_what_holds_and_says_what_is_left(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert max(map(len, found)) <= 80
    text = " ".join(found)
    assert text.startswith("Of the paper's 8 findings 3 hold and 5 are open on tiny (16 layers). From least")
    assert "random order (0.80), parallel (0.60), reverse (0.50), skip (0.30), middle repeat (0.10)." in text
    assert [line.split()[:2] for line in found if line[:1].isdigit()] == [
        *(["1", "open"], ["2", "open"], ["3", "holds"], ["4", "holds"]),
        *(["5", "holds"], ["6", "open"], ["7", "open"], ["8", "open"]),
    ]


def test_every_finding_is_said_in_words_that_its_verdict_fits(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert "3  holds          The middle layers do different things: repeating one of them" in found
    at = found.index(next(line for line in found if line.startswith("7  open")))
    assert "Not enough data: this takes the strategies parallel and" in " ".join(" ".join(found[at:]).split())


def test_tasks_are_shown_against_chance_and_those_left_out_have_a_reason(tmp_path: Path) -> None:
    found = lines(tmp_path / "study")
    assert "lambada_openai  acc            0.800 ± 0.020    0.00" in found
    assert "winogrande      acc            0.500 ± 0.025    0.50  left out*" in found
    assert any(line.startswith("* winogrande: the full model's acc of 0.500 ± 0.025 is not above") for line in found)


def test_singular_and_plural(tmp_path: Path) -> None:
    text = " ".join(lines(tmp_path / "study", **{"random": 0.2, "parallel": 0.2}))
    assert text.startswith("Of the paper's 8 findings 1 holds, 1 holds in part, 1 does not and 5 are open on tiny")


def test_a_report_keeps_it_for_every_study(tmp_path: Path) -> None:
    both = write_store(tmp_path / "both.sqlite", model("example/one"), model("example/two", skip=0.2))
    text = (write_report(both, tmp_path / "report").parent / SUMMARY).read_text()
    assert text.count("Of the paper's 8 findings") == 2
    assert text.index("on one (16") < text.index("on two (16")

"""Every plan beside the full model: scores, differences and what flipped, against scipy and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report.data import read_store
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.paired import Flips, PlanScores
from jaxpaint.report.plans_page import MOST_DOCUMENTS, p_text, plans_box
from jaxpaint.report.strip import MOST_EVENTS, strip
from jaxpaint.report.tables import plans_table
from jaxpaint.report.windows import Window, window, window_maps
from jaxpaint.results.search import holm
from tests.helpers.report_store import FakeModel, FakeTask, change, write_store

LAYERS = 8
OWN = ("0-3 5-7", "0 7", "7 0-6")
SHARES = {"0-3 5-7": 0.55, "0 7": 0.1, "7 0-6": 0.5}


def accuracy(variant: Variant) -> float:
    return 0.5 if variant.strategy == "full" else SHARES[str(variant.plan)]


def variants() -> list[Variant]:
    return [build("full", LAYERS), *(Variant(CUSTOM, Plan.parse(text), LAYERS) for text in OWN)]


def scores(path: Path, *tasks: FakeTask) -> PlanScores:
    (study,) = read_store(write_store(path, FakeModel(variants(), tasks, LAYERS)))
    return Measurements.of(study).plans


def drawn(name: str, documents: int) -> FakeTask:
    """Whose documents do not all fall in one order."""
    return FakeTask(name, accuracy, documents=documents, exact=False)


def test_plans_come_best_first_with_paired_differences(tmp_path: Path) -> None:
    found = scores(tmp_path / "s", FakeTask("t", accuracy, documents=200))
    assert [row.name for row in found.rows] == ["0-3 5-7", "full", "7 0-6", "0 7"]
    best, full, same, worst = found.rows
    assert (best.average.value, best.difference.value) == (pytest.approx(0.55), pytest.approx(0.05))
    assert best.flips == (Flips((), tuple(range(100, 110))),)
    assert worst.flips == (Flips(tuple(range(20, 100)), ()),)
    assert same.flips == (Flips((), ()),)
    assert same.difference.low == same.difference.high == 0
    assert same.p == 1
    assert np.isnan([full.difference.value, full.p]).all()
    assert full.flips == (None,)


def test_intervals_are_those_of_scipys_bootstrap(tmp_path: Path) -> None:
    """The same quantity by other random numbers; an interval that ignored the pairing would be twice as long."""
    found = scores(tmp_path / "s", drawn("t", 400))
    result, full = found.results[0], found.study.full
    for row in found.rows:
        if row.column == full:
            continue
        pairs = result.per_document[row.column], result.per_document[full]
        how = {"paired": True, "method": "percentile", "n_resamples": 2000, "random_state": 0, "vectorized": True}
        for number, sample, statistic in (
            (row.difference, pairs, lambda a, b, axis: (a - b).mean(axis=axis)),
            (row.average, pairs[:1], lambda a, axis: a.mean(axis=axis)),
        ):
            theirs = scipy.stats.bootstrap(sample, statistic, **how).confidence_interval
            assert (number.low, number.high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_p_is_mcnemars_after_holm(tmp_path: Path) -> None:
    """Against the exact test of the flips' signs, to which Edwards' correction comes near from above."""
    found = scores(tmp_path / "s", drawn("t", 400))
    others = [row for row in found.rows if row.column != found.study.full]
    exact = []
    for row in others:
        (flips,) = row.flips
        assert flips is not None
        lost, gained = len(flips.lost), len(flips.gained)
        exact.append(scipy.stats.binomtest(gained, lost + gained).pvalue)
    assert [row.p for row in others] == pytest.approx(holm(exact), abs=0.01)
    assert min(exact) < 0.001 < max(exact)


def test_few_flips_are_no_significance(tmp_path: Path) -> None:
    """Five documents gained of forty and none lost: 0.0625 by the exact test, though 0.025 without the correction."""
    SHARES["0-3 5-7"] = 0.625
    found = scores(tmp_path / "s", FakeTask("t", accuracy, documents=40))
    SHARES["0-3 5-7"] = 0.55
    assert found.rows[0].flips == (Flips((), (20, 21, 22, 23, 24)),)
    assert found.rows[0].p > 2 * 0.0625  # two plans have a smaller p or none


def test_tasks_count_the_same_and_a_missing_one_leaves_no_average(tmp_path: Path) -> None:
    other = FakeTask("b", lambda v: None if str(v.plan) == "0 7" else accuracy(v) / 2, documents=100)
    lower = FakeTask("z", lambda v: 0.5, documents=100)
    path = tmp_path / "s"
    write_store(path, FakeModel(variants(), [FakeTask("a", accuracy, documents=200), other, lower], LAYERS))
    task = "SELECT id FROM cells WHERE task = (SELECT id FROM tasks WHERE name = 'z')"
    change(path, f"UPDATE metrics SET higher_is_better = 0 WHERE cell IN ({task})")
    (study,) = read_store(path)
    found = Measurements.of(study).plans
    assert found.averaged == ("a", "b")
    best, *_, last = found.rows
    assert best.average.value == pytest.approx((0.55 + 0.28) / 2, abs=0.006)
    assert last.name == "0 7"
    assert np.isnan([last.average.value, last.difference.value, last.p, last.tasks[1].value]).all()
    assert last.tasks[0].value == pytest.approx(0.1)


def test_a_metric_that_is_no_mean_has_an_interval_but_no_paired_difference(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_store(path, FakeModel(variants(), [FakeTask("f1", accuracy, documents=100)], LAYERS))
    change(path, "UPDATE metrics SET value = value + 0.1")
    (study,) = read_store(path)
    best = Measurements.of(study).plans.rows[0]
    assert best.tasks[0].high - best.tasks[0].value == pytest.approx(1.96 * 0.05, abs=0.001)
    assert best.average.high - best.average.value == pytest.approx(1.96 * 0.05, abs=0.01)
    assert best.difference.value == pytest.approx(0.05)
    assert np.isnan([best.difference.low, best.p]).all()


def test_the_table_has_every_digit_and_the_page_what_fits(tmp_path: Path) -> None:
    found = scores(tmp_path / "s", FakeTask("t", accuracy, documents=1000))
    table = plans_table(found)
    first = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (first["plan"], first["t acc"], first["t lost"], first["t gained"]) == ("0 7", 0.1, 400, 0)
    box = plans_box(found, None, None, (), "1-tiny")  # type: ignore[arg-type]
    gained, right, lost, wrong = box.data["plans"][-1]["flips"][0]
    assert (gained, right, lost) == (0, (), 400)
    assert wrong == tuple(range(100, 100 + MOST_DOCUMENTS))
    assert [line.anchor for line in box.lines] == [f"plan-1-tiny-{row.column}" for row in found.rows]
    assert [name for name, _ in box.columns] == ["cost", "depth", "t", "less full", "p (Holm)", "flipped"]
    assert box.lines[-1].cells[-1][0] == "+0 −400"
    assert (p_text(0.0004), p_text(0.25), p_text(float("nan"))) == ("<0.001", "0.250", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3 6 7", Window("left out", 4, 2)),
        ("1-7", Window("left out", 0, 1)),
        ("0-5", Window("left out", 6, 2)),
        ("0-5 3-7", Window("repeated", 3, 3)),
        ("0-7 7", Window("repeated", 7, 1)),
        ("0-7 0-7", Window("repeated", 0, 8)),
        ("(0-2)*2 3-7", Window("repeated", 0, 3)),
        *(
            (text, None)
            for text in ("0-7", "0-2 4 6 7", "7-0", "0-3 3*2 4-7", "0-3 {4 5} 6 7", "0-3 4a 6 7", "0-6 6 5")
        ),
    ],
)
def test_windows(text: str, expected: Window | None) -> None:
    assert window(Plan.parse(text), LAYERS) == expected


def test_windows_make_a_map_where_some_have_one_width() -> None:
    centred = [Plan.of(range(first), range(LAYERS - first, LAYERS)) for first in range(1, 4)]
    assert window_maps([*centred, Plan.parse("0-7")], LAYERS) == {}
    ones = [Plan.parse("1-7"), Plan.parse("0 2-7")]
    assert set(window_maps([*centred, *ones], LAYERS)["left out"]) == set(range(5))


def test_a_strip_has_a_square_for_each_application() -> None:
    found = strip(Plan.parse("0 {1 2} 2"), 4)
    assert found is not None
    assert (found.width, found.height) == (4, 4)
    assert found.path == "".join(f"M{x} {y}h1v1h-1z" for x, y in ((0, 3), (1, 2), (1, 1), (2, 1)))
    assert found.out == "M0 0h4v1h-4z"  # layer 3
    assert strip(Plan.parse(f"0*{MOST_EVENTS + 1}"), 4) is None

"""Scores against measured latency: what is drawn and tabled where a store has it, and what is said where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report.data import read_store
from jaxpaint.report.figures import study_figures
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.tables import study_tables
from jaxpaint.results.latency import Latency, Setting
from jaxpaint.results.store import Store
from tests.helpers.report_store import FakeModel, FakeTask, write_store
from tests.report.test_figures import LAYERS, draw, labels, lines, variants

pytest.importorskip("matplotlib")
HERE = Setting("Some Processor", 1, 4, "0.10.2", 1, 128, 11)
OWN = Variant(CUSTOM, Plan.parse("0-2 {3 4 5} 6 7"), LAYERS)
SKIP, FULL = build("skip", LAYERS, start=2).plan, Plan.of(range(LAYERS))
MODEL = {"fingerprint": "f" * 64, "dtype": "float32", "source": "m", "revision": None, "num_layers": LAYERS}


def latency(milliseconds: float, setting: Setting = HERE, step: float = 1.0) -> Latency:
    """Three rounds around so many milliseconds to the first token, and `step` milliseconds for each of ten more."""
    first = tuple(m / 1000 for m in (milliseconds - 1, milliseconds, milliseconds + 3))
    return Latency(setting, first, tuple(each + step / 100 for each in first), 1 << 30)


def store_with(path: Path, *measured: tuple[Plan, Latency], model: dict = MODEL) -> Measurements:
    if not path.exists():
        task = FakeTask("t", lambda v: {"full": 0.8, "skip": 0.4}.get(v.strategy, 0.6))
        write_store(path, FakeModel([*variants("skip"), OWN], [task], LAYERS))
    with Store.open(path, create=False) as store:
        store.add_latencies(model, measured)
    (study,) = read_store(path)
    return Measurements.of(study)


def test_plans_are_drawn_at_their_medians_with_quartiles(tmp_path: Path) -> None:
    one = store_with(
        tmp_path / "s",
        (FULL, latency(20, step=2)),
        (SKIP, latency(10)),
        (OWN.plan, latency(15)),
        (Plan.parse("7 0"), latency(1)),
    )
    (drawn,) = [figure for figure in study_figures(one) if figure.number == "latency"]
    assert (
        "1 prompt of 128 tokens, 11 new ones each; float32 on Some Processor, 4 threads, jax 0.10.2." in drawn.caption
    )
    first, further = draw([drawn], "latency").axes
    assert lines(first)["skip"].tolist() == [[pytest.approx(10), pytest.approx(0.5)]]
    assert lines(first)["own plan"].tolist() == [[pytest.approx(15), pytest.approx(0.75)]]
    assert lines(further)["skip"].tolist() == [[pytest.approx(1), pytest.approx(0.5)]]
    (bars,) = [container for container in first.containers if container.get_label() == "skip"]
    assert bars.lines[2][0].get_segments()[0][:, 0].tolist() == pytest.approx([9.5, 11.5])
    upright = {float(line.get_xdata()[0]) for line in further.lines if line.get_xdata()[0] == line.get_xdata()[-1] > 0}
    assert any(x == pytest.approx(2) for x in upright)  # the full model's
    assert {"full model", "chance", "skip", "own plan"} == set(labels(draw([drawn], "latency")))
    assert "Some Processor, 4 threads, jax 0.10.2" in [text.get_text() for text in draw([drawn], "latency").texts]


def test_the_machine_with_most_plans_is_drawn_and_the_table_has_all(tmp_path: Path) -> None:
    other = Setting("Some GPU", 1, 16, "0.11.2", 8, 128, 11)
    store_with(tmp_path / "s", (FULL, latency(2, other)), (SKIP, latency(1, other)))
    one = store_with(tmp_path / "s", (FULL, latency(20)), (SKIP, latency(10)), (OWN.plan, latency(15)))
    (drawn,) = [figure for figure in study_figures(one) if figure.number == "latency"]
    assert "Some Processor" in drawn.caption
    assert "Another 1 machine or sizes are in the table." in drawn.caption
    (table,) = [table for table in study_tables(one, ()) if table.name == "latency"]
    named = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["plan"], row["machine"].split(",")[0]) for row in named] == [
        ("full", "Some Processor"),
        ("skip start=2", "Some Processor"),
        (str(OWN.plan), "Some Processor"),
        ("full", "Some GPU"),
        ("skip start=2", "Some GPU"),
    ]
    skip = named[1]
    assert skip["ms to the first token"] == pytest.approx(10)
    assert skip["ms of each further token"] == pytest.approx(1)
    assert skip["prompt tokens/s"] == pytest.approx(12800)
    assert skip["new tokens/s"] == pytest.approx(1000)
    assert skip["peak GiB"] == 1


def test_other_dtypes_are_another_model(tmp_path: Path) -> None:
    one = store_with(tmp_path / "s", (FULL, latency(20)), (SKIP, latency(10)), model=MODEL | {"dtype": "bfloat16"})
    assert "latency" not in {figure.number for figure in study_figures(one)}


def test_times_shorter_than_the_rounds_difference_are_not_drawn(tmp_path: Path) -> None:
    one = store_with(tmp_path / "s", (FULL, latency(20)), (SKIP, latency(10, step=-1)))
    first, further = draw(study_figures(one), "latency").axes
    assert "skip" in lines(first)
    assert "skip" not in lines(further)


def test_without_times_the_figure_says_what_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "s"
    task = FakeTask("t", lambda v: {"full": 0.8, "skip": 0.4}.get(v.strategy, 0.6))
    write_store(path, FakeModel([*variants("skip"), OWN], [task], LAYERS))
    (study,) = read_store(path)
    figures = {figure.number: figure for figure in study_figures(Measurements.of(study))}
    assert "latency" not in figures
    assert figures["tradeoff"].title == "Score against depth and compute"
    assert "both counted, not timed" in figures["tradeoff"].caption
    before = [axes.get_lines()[0].get_xydata().tolist() for axes in draw([figures["tradeoff"]], "tradeoff").axes]
    timed = store_with(path, (FULL, latency(20)), (SKIP, latency(10)))
    figures = {figure.number: figure for figure in study_figures(timed)}
    assert {"latency", "tradeoff"} <= figures.keys()
    assert [
        axes.get_lines()[0].get_xydata().tolist() for axes in draw([figures["tradeoff"]], "tradeoff").axes
    ] == before
    assert "latency" not in {table.name for table in study_tables(Measurements.of(study), ())}

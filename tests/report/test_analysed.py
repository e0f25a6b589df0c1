"""Analyses of hidden states in a report: figures with intervals, the table, the summary, and the clock's verdict."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report import SUMMARY, write_report
from jaxpaint.report.analysed import BY_STATE, OF_PAIRS
from jaxpaint.report.data import read_store
from jaxpaint.report.figures import study_figures
from jaxpaint.report.figures.style import Drawn
from jaxpaint.report.measurements import Measurements
from jaxpaint.results.schema import connect
from jaxpaint.studies.spec import ANALYSES
from tests.helpers.report_store import FakeModel, FakeTask, add_analysis, write_store

LAYERS = 8
FULL = build("full", LAYERS)
SKIP = [build("skip", LAYERS, start=start) for start in (0, 3)]
OWN = Variant(CUSTOM, Plan.parse("0-2 {3 4} 5-7"), LAYERS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    task = FakeTask("t", lambda v: 0.5)
    return write_store(tmp_path / "s.sqlite", FakeModel([FULL, *SKIP, OWN], [task], LAYERS))


def add(store: Path, variant: Variant, name: str, value: np.ndarray, stderr: np.ndarray | None = None) -> None:
    add_analysis(store, variant, name, value)
    if stderr is not None:
        add_analysis(store, variant, f"{name}_stderr", stderr)


def figures(store: Path) -> dict[str, Drawn]:
    (study,) = read_store(store)
    return {drawn.number: drawn for drawn in study_figures(Measurements.of(study))}


def draw(drawn: Drawn) -> Figure:
    figure = Figure(figsize=drawn.size)
    drawn.draw(figure)
    return figure


def test_every_analysis_of_a_study_has_a_figure() -> None:
    shown = {"similarity", *(each.name for each in BY_STATE), *(each.name for each in OF_PAIRS)}
    assert shown == set(ANALYSES)


def test_curves_have_bands_of_their_standard_errors(store: Path) -> None:
    for variant in (FULL, *SKIP, OWN):
        states = variant.plan.depth + 1
        add(store, variant, "entropy", np.arange(states, dtype=float), np.full(states, 0.5))
    drawn = figures(store)["entropy"]
    (axes,) = draw(drawn).axes
    # The full model, of skip the start nearest to the paper's 13 in 32 layers, and the user's own plan.
    assert [line.get_label() for line in axes.lines] == ["full model", "skip start=3", "0-2 {3 4} 5-7"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.arange(9))
    edges = axes.collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(-1.96 * 0.5)
    assert edges[:, 1].max() == pytest.approx(8 + 1.96 * 0.5)
    assert (
        "On 100 texts of lambada_openai, BOS off. Intervals: 95 % (1.96 standard errors over texts)." in drawn.caption
    )


def test_a_store_without_intervals_says_so(store: Path) -> None:
    add(store, FULL, "block_influence", np.linspace(1, 0, 8))
    drawn = figures(store)["block-influence"]
    (axes,) = draw(drawn).axes
    assert not axes.collections
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.arange(1, 9))
    assert "No interval: the store holds the mean over the texts alone" in drawn.caption


def test_maps_of_pairs_and_of_their_intervals(store: Path) -> None:
    distances = np.abs(np.subtract.outer(np.arange(9), np.arange(9))) / 16
    rows = [row[number + 1 :] for number, row in enumerate(distances[:-1])]
    connection = connect(store, create=False)
    for name, factor in (("angular_distance", 1), ("angular_distance_stderr", 0.1)):
        connection.execute(
            "INSERT INTO analyses SELECT 1, id, ?, '{}', ? FROM plans WHERE text = ?",
            (name, json.dumps([(factor * row).tolist() for row in rows]), str(FULL.plan)),
        )
    connection.close()
    add(store, FULL, "cka", np.eye(9))
    drawn = figures(store)
    values, halves = (axes.images[0].get_array() for axes in draw(drawn["angular-distance"]).axes if axes.images)
    np.testing.assert_allclose(values, distances)
    np.testing.assert_allclose(halves, 0.196 * distances)
    (only,) = (axes.images[0].get_array() for axes in draw(drawn["cka"]).axes if axes.images)
    np.testing.assert_allclose(only, np.eye(9))


def add_clock(store: Path, r2: tuple[float, float], off: float = 0.0) -> None:
    value = np.clip(np.stack([np.linspace(0, 1, 9)] * 2, axis=1) + off / LAYERS, 0, None)
    add(store, FULL, "clock", value, np.full((9, 2), 0.01))
    add_analysis(store, FULL, "clock_fit", np.array(r2))


def summary_of(store: Path, folder: Path) -> str:
    return " ".join((write_report(store, folder).parent / SUMMARY).read_text().split())


def test_a_clock_that_holds(store: Path, tmp_path: Path) -> None:
    add_clock(store, (0.97, 0.93), off=0.5)
    text = summary_of(store, tmp_path / "out")
    assert (
        "The clock tells the full model's depths to a layer (holds): held-out R² 0.970 at last tokens, off by" in text
    )
    above, below = draw(figures(store)["clock"]).axes
    assert len(above.lines) == len(below.lines) == 2  # the full model and one layer a step


def test_a_clock_below_its_least_r2_is_refused(store: Path, tmp_path: Path) -> None:
    add_clock(store, (0.97, 0.82))
    drawn = figures(store)["clock"]
    assert "Below 0.9 it tells nothing: there is no clock at other tokens." in drawn.caption
    above, below = draw(drawn).axes
    assert [len(axes.lines) for axes in (above, below)] == [2, 1]
    text = summary_of(store, tmp_path / "out")
    assert "(does not hold): held-out R² 0.970 at last tokens, off by 0.00 layers on average; held-out R² 0.820" in text
    assert "does not hold): held-out R² 0.970" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_clock_that_is_layers_off_does_not_hold(store: Path, tmp_path: Path) -> None:
    add_clock(store, (0.97, 0.93), off=1.5)
    assert "to a layer (does not hold)" in summary_of(store, tmp_path / "out")


def test_the_table_and_the_summary_have_the_numbers(store: Path, tmp_path: Path) -> None:
    lens = np.stack([np.linspace(-9, -1, 9), np.arange(9, 0, -1), np.linspace(-8, 0, 9), np.arange(9.0)], axis=1)
    add(store, FULL, "logit_lens", lens, np.full((9, 4), 0.1))
    report = write_report(store, tmp_path / "out")
    lines = (report.parent / SUMMARY).read_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "  next token's log-probability      -9.0 ± 0.2      -5.0 ± 0.2      -1.0 ± 0.2" in lines
    with (report.parent / "tables" / "hidden-states.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 9
    assert rows[0]["texts"] == "100 texts of lambada_openai, BOS off"
    assert (float(rows[8]["value"]), float(rows[8]["half of the 95 % interval"])) == (-1, pytest.approx(0.196))

"""What is on the figures: read back from matplotlib's own objects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.plans import strategies
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Strategy, Variant, build, family
from jaxpaint.report.data import read_store
from jaxpaint.report.figures import figures_across, save, study_figures
from jaxpaint.report.figures.style import Drawn
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.tables import study_tables
from tests.helpers.report_store import FakeModel, FakeTask, add_analysis, change, write_store

pytest.importorskip("matplotlib")
LAYERS = 8
ALL = ("skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel", "block-repeat", "parallel-pairs")


def variants(*names: str, layers: int = LAYERS, iterations=(3,)) -> list[Variant]:
    return [v for name in ("full", *names) for v in family(name, layers, iterations=iterations, seeds=range(2))]


def measured(path: Path, *models: FakeModel) -> list[Measurements]:
    return [Measurements.of(study) for study in read_store(write_store(path, *models))]


def draw(figures: list[Drawn], number: str):
    from matplotlib.figure import Figure

    (drawn,) = [figure for figure in figures if figure.number == number]
    canvas = Figure(figsize=drawn.size)
    drawn.draw(canvas)
    canvas.draw_without_rendering()
    return canvas


def lines(axes) -> dict[str, np.ndarray]:
    """The error-bar lines by their label: [x, y]."""
    return {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}


def labels(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_repeated_block_is_on_the_map(tmp_path: Path) -> None:
    """First layers across, last ones up; the best is framed, and half of the map has no plans."""
    blocks = variants("repeat-block")

    def accuracy(variant: Variant) -> float:
        if variant.first is None or variant.last is None:
            return 0.5
        return 0.5 + 0.01 * variant.last - 0.02 * variant.first

    (one,) = measured(tmp_path / "s", FakeModel(blocks, [FakeTask("lambada_openai", accuracy)], LAYERS))
    figure = draw(study_figures(one), "blocks")
    axes = figure.axes[0]
    values = axes.images[0].get_array()
    assert values.shape == (LAYERS, LAYERS)
    for last in range(LAYERS):
        for first in range(LAYERS):
            if first > last:
                assert values.mask[last, first]
            else:
                assert values[last, first] == pytest.approx((0.5 + 0.01 * last - 0.02 * first) / 0.5, abs=0.021)
    (frame,) = axes.patches
    assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (0, LAYERS - 1)


def test_every_strategy_has_the_papers_number(tmp_path: Path) -> None:
    own = Variant(CUSTOM, Plan.parse("0-3 {4 5} 6 7"), LAYERS)
    task = FakeTask("lambada_openai", lambda v: 0.5)
    other = FakeTask("hellaswag", lambda v: 0.5, chance=0.25)
    plans = [*variants(*ALL, "skip-one", "switch", iterations=(1, 2, 3)), own]
    (one,) = measured(tmp_path / "s", FakeModel(plans, [task, other], LAYERS))
    found = {figure.number for figure in study_figures(one)}
    assert found == {"2", "4", "5", "6", "7", "8", "9", "10", "11", "17", "tradeoff", "tasks"}


def test_a_strategy_is_one_entry(tmp_path: Path, monkeypatch) -> None:
    ends = Strategy("only-ends", lambda num_layers, start: Plan.of(0, num_layers - 1), "only the ends", trades=True)
    monkeypatch.setitem(strategies._BY_NAME, ends.name, ends)
    assert [variant.label for variant in family("only-ends", LAYERS)][:2] == ["only-ends start=0", "only-ends start=1"]
    task = FakeTask("lambada_openai", lambda v: 0.8 if v.strategy == "full" else 0.4)
    (one,) = measured(tmp_path / "s", FakeModel(variants("skip", "only-ends"), [task], LAYERS))
    tables = {table.name: table for table in study_tables(one, ())}
    assert {row[0] for row in tables["beyond-the-paper"].rows} == {"only-ends"}
    assert lines(draw(study_figures(one), "11").axes[0])["only the ends"][:, 0].round() == pytest.approx([1, 3, 5, 7])
    assert "only the ends" in lines(draw(study_figures(one), "tradeoff").axes[0])


def test_figure_10_as_a_table(tmp_path: Path) -> None:
    task = FakeTask("t", lambda v: 0.8 if v.strategy == "full" else 0.1 * (v.iterations or 1))
    (one,) = measured(tmp_path / "s", FakeModel(variants("looped-parallel", iterations=(2, 3)), [task], LAYERS))
    (table,) = [table for table in study_tables(one, ()) if table.name == "iterations"]
    assert table.columns == ("iterations", "1 layers", "3 layers", "5 layers", "7 layers")
    assert [row[0] for row in table.rows] == [2, 3]
    assert [row[2] for row in table.rows] == pytest.approx([0.25, 0.375])


def test_no_figure_without_data(tmp_path: Path) -> None:
    (one,) = measured(tmp_path / "s", FakeModel(variants(), [FakeTask("t", lambda v: 0.5)], LAYERS))
    assert study_figures(one) == []


def test_a_strategys_figure_draws_normalised_scores_intervals_and_their_median(tmp_path: Path) -> None:
    tasks = [
        FakeTask(name, lambda v, s=share: 0.5 + 0.4 * (1 if v.strategy == "full" else s), chance=0.5, documents=200)
        for name, share in {"one": 0.9, "two": 0.5, "three": 0.2}.items()
    ]
    (one,) = measured(tmp_path / "s", FakeModel(variants("skip"), tasks, LAYERS))
    figure = draw(study_figures(one), "4")
    drawn = lines(figure.axes[0])
    for name, share in {"one": 0.9, "two": 0.5, "three": 0.2, "median": 0.5}.items():
        assert drawn[name][:, 1] == pytest.approx([share] * 4)
    assert drawn["median"][:, 0].tolist() == [1, 3, 5, 7]
    (bars,) = [c for c in figure.axes[0].containers if c.get_label() == "median"]
    (low, high) = bars.lines[2][0].get_segments()[0][:, 1]
    curve = one.curve("skip")
    assert (low, high) == pytest.approx((curve.low[0], curve.high[0]))
    assert {"full model", "chance", "median", "one", "two", "three"} == set(labels(figure))


def test_what_is_left_out_or_missing_is_named_on_the_figure(tmp_path: Path) -> None:
    bad = build("skip", LAYERS, start=1).plan
    good = FakeTask("good", lambda v: None if v.plan == bad else 0.6)
    guessed = FakeTask("guessed", lambda v: 0.5, chance=0.5)
    (one,) = measured(tmp_path / "s", FakeModel(variants("skip"), [good, guessed], LAYERS))
    figure = draw(study_figures(one), "4")
    assert {"guessed: left out", "missing (1)"} <= set(labels(figure))
    (crosses,) = [line for line in figure.axes[0].lines if line.get_label() == "missing (1)"]
    assert crosses.get_xdata().tolist() == [5]
    assert "guessed" not in lines(figure.axes[0])


def loop_accuracy(variant: Variant) -> float | None:
    if variant.strategy == "full":
        return 0.9
    if variant.iterations == 3 and variant.affected == 7:
        return None
    best = {1: 1, 3: 2, 5: 4, 7: 2}[variant.affected or 0]
    return 0.8 - 0.1 * abs((variant.iterations or 1) - best)


def test_the_best_number_of_iterations_is_framed_in_every_column(tmp_path: Path) -> None:
    from matplotlib.patches import Rectangle

    plans = variants("looped-parallel", iterations=range(1, 5))
    (one,) = measured(tmp_path / "s", FakeModel(plans, [FakeTask("t", loop_accuracy)], LAYERS))
    figure = draw(study_figures(one), "10")
    axes = figure.axes[0]
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    centres = [(frame.get_x() + 0.5, frame.get_y() + 0.5) for frame in frames]
    iterations = [int(axes.yaxis.get_ticklabels()[int(row)].get_text()) for _, row in centres]
    # One layer in parallel with itself is the full model, so its best is one iteration.
    assert [column for column, _ in centres] == [0, 1, 2, 3]
    assert iterations == [1, 2, 4, 2]
    assert [label.get_text() for label in axes.xaxis.get_ticklabels()] == ["1", "3", "5", "7"]
    shown = axes.images[0].get_array()
    assert shown.mask.sum() == 1
    assert shown[1, 1] == pytest.approx(0.8 / 0.9, abs=0.01)
    assert "missing (1)" in labels(figure)


def test_seeds_are_shaded(tmp_path: Path) -> None:
    def accuracy(variant: Variant) -> float:
        return 0.5 if variant.seed is None else 0.2 + 0.2 * variant.seed

    tasks = [FakeTask(name, accuracy) for name in ("one", "two")]
    (one,) = measured(tmp_path / "s", FakeModel(variants("random"), tasks, LAYERS))
    figure = draw(study_figures(one), "7")
    (band,) = [c for c in figure.axes[0].collections if type(c).__name__ == "FillBetweenPolyCollection"]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.4, 1.0))  # one middle layer has one order
    assert lines(figure.axes[0])["median"][-1, 1] == pytest.approx(0.6)


def test_figure_2_shows_accuracy_and_perplexity_by_layer(tmp_path: Path) -> None:
    def accuracy(variant: Variant) -> float:
        return 0.5 if variant.layer is None else 0.1 + 0.05 * variant.layer

    lambada, other = FakeTask("lambada_openai", accuracy), FakeTask("arc_easy", lambda v: 0.6)
    path = write_store(tmp_path / "s", FakeModel(variants("skip-one", "switch"), [other, lambada], LAYERS))
    change(
        path,
        "INSERT INTO metrics SELECT cell, 'perplexity', 'none', 1 / value, 0.1, 0 FROM metrics JOIN cells ON id = cell"
        " WHERE task = (SELECT id FROM tasks WHERE name = 'lambada_openai')",
    )
    figure = draw(study_figures(Measurements.of(read_store(path)[0])), "2")
    above, below = figure.axes
    assert lines(above)["skip one"][:, 1] == pytest.approx(0.1 + 0.05 * np.arange(8))
    assert len(lines(above)["switch with the next"]) == 7
    assert lines(below)["skip one"][:, 1] == pytest.approx(1 / (0.1 + 0.05 * np.arange(8)))
    assert (above.get_ylabel(), below.get_yscale()) == ("accuracy", "log")
    bars = next(c for c in below.containers if c.get_label() == "skip one").lines[2][0].get_segments()
    assert np.diff(bars[0][:, 1]) == pytest.approx(2 * 1.96 * 0.1)


def test_similarity_and_states(tmp_path: Path) -> None:
    plans = variants("skip", "middle-repeat")
    path = write_store(tmp_path / "s", FakeModel(plans, [FakeTask("t", lambda v: 0.5)], LAYERS))
    similarity = np.linspace(0.1, 1, 81).reshape(9, 9)
    add_analysis(path, plans[0], "similarity", similarity)
    add_analysis(path, plans[0], "similarity", np.zeros((9, 9)), bos="on", samples=500)  # not this study's setting
    add_analysis(path, plans[0], "similarity", np.zeros((9, 9)), samples=10)
    for start in (0, 2):
        for name in ("skip", "middle-repeat"):
            variant = build(name, LAYERS, start=start)
            states = variant.plan.cost + 1
            add_analysis(path, variant, "similarity", np.eye(states))
            add_analysis(path, variant, "variance", np.arange(1.0, states + 1))
    figures = study_figures(Measurements.of(read_store(path)[0]))
    np.testing.assert_allclose(draw(figures, "3").axes[0].images[0].get_array(), similarity)
    assert "100 texts of lambada_openai, BOS off" in next(f for f in figures if f.number == "3").caption
    states = draw(figures, "15")
    assert [axes.get_title() for axes in states.axes[:3]] == ["full model", "skip", "middle repeat"]
    assert states.axes[1].images[0].get_array().shape == (6, 6)  # start 2 is nearest to the paper's
    assert [len(line.get_xdata()) for line in states.axes[-1].lines] == [6, 9]


def test_models_are_compared_by_the_share_of_layers(tmp_path: Path) -> None:
    task = FakeTask("t", lambda v: 0.8 if v.strategy == "full" else 0.8 * (1 - (v.affected or 0) / v.num_layers))
    large = FakeModel(variants("skip"), [task], LAYERS)
    small = FakeModel(variants("skip", layers=4), [task], 4, source="example/Small", fingerprint="a" * 64)
    found = measured(tmp_path / "s", large, small)
    drawn = lines(draw(figures_across(found), "12").axes[0])
    for name, line in drawn.items():
        assert line[:, 1] == pytest.approx(1 - line[:, 0] / 100, abs=0.02), name
    assert drawn["Small (4 layers)"][:, 0].tolist() == [25, 75]
    assert figures_across(found[:1]) == []


def test_each_strategy_that_two_models_ran_has_a_panel(tmp_path: Path) -> None:
    task = FakeTask("t", lambda v: 0.8 if v.strategy == "full" else 0.8 * (1 - (v.affected or 0) / v.num_layers))
    large = FakeModel(variants("skip", "reverse", "random"), [task], LAYERS)
    small = FakeModel(variants("skip", "reverse", layers=4), [task], 4, source="example/Small", fingerprint="a" * 64)
    panels = [
        axes for axes in draw(figures_across(measured(tmp_path / "s", large, small)), "models").axes if axes.axison
    ]
    assert [axes.get_title() for axes in panels] == ["skip", "reverse"]
    assert {name: line[-1, 0] for name, line in lines(panels[1]).items()} == {
        f"Tiny-Model ({LAYERS} layers)": 87.5,
        "Small (4 layers)": 75,
    }


def test_the_trade_off_shows_depth_and_cost_and_own_plans(tmp_path: Path) -> None:
    own = Variant(CUSTOM, Plan.parse("0-2 {3 4 5} 6 7"), LAYERS)
    task = FakeTask("t", lambda v: 0.8 if v.strategy == "full" else 0.4)
    (one,) = measured(tmp_path / "s", FakeModel([*variants("parallel-pairs", "skip"), own], [task], LAYERS))
    depth, cost = draw(study_figures(one), "tradeoff").axes
    assert lines(depth)["own plan"].tolist() == [[6 / 8, 0.5]]
    assert lines(cost)["own plan"].tolist() == [[1, 0.5]]
    assert lines(cost)["parallel pairs"][:, 0].tolist() == [1, 1, 1, 1]
    assert lines(depth)["parallel pairs"][:, 0].tolist() == [8 / 8, 7 / 8, 6 / 8, 5 / 8]
    assert lines(cost)["skip"][:, 0].tolist() == [7 / 8, 5 / 8, 3 / 8, 1 / 8]


def test_legends_of_long_names_stay_on_the_figure(tmp_path: Path) -> None:
    tasks = [FakeTask(f"a_benchmark_with_a_long_name_{number}", lambda v: 0.4, chance=0.25) for number in range(3)]
    (one,) = measured(tmp_path / "s", FakeModel(variants("skip", "random"), tasks, LAYERS))
    figures = study_figures(one)
    for drawn in figures:
        figure = draw(figures, drawn.number)
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert box.x0 >= 0, drawn.slug
            assert box.x1 <= figure.bbox.width, drawn.slug


def test_a_task_of_any_name_makes_a_file_of_the_figure_s_folder(tmp_path: Path) -> None:
    """Tasks' names come from the store."""
    slugs = ["skip-../../../x", "skip-a/b", "skip-a-b", "n" * 400, "skip-\x1b[31m"]
    found = [save(Drawn("4", slug, "T", "C", lambda figure: None), "M", tmp_path)[0] for slug in slugs]
    assert {file.parent for file in found} == {tmp_path}
    assert len({*found}) == len(slugs)
    assert all(re.fullmatch(r"[\w.-]+", file.name) for file in found)
    assert found[2].name == "figure-04-skip-a-b.pdf"

"""Normalised scores, their median and their intervals, from stores whose every score is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxpaint.plans.strategies import Variant, build, family
from jaxpaint.report.bootstrap import DRAWS, resampled_means
from jaxpaint.report.data import read_store
from jaxpaint.report.measurements import Measurements
from tests.helpers.report_store import FakeModel, FakeTask, change, write_store

LAYERS = 8


def variants(*names: str, iterations=(3,), seeds=range(3)) -> list[Variant]:
    return [v for name in ("full", *names) for v in family(name, LAYERS, iterations=iterations, seeds=seeds)]


def by_strategy(**accuracy: float):
    """An accuracy for each strategy, dashes as underscores."""
    return lambda variant: accuracy[variant.strategy.replace("-", "_")]


def measure(path: Path, *tasks: FakeTask, plans: list[Variant]) -> Measurements:
    (study,) = read_store(write_store(path, FakeModel(plans, tasks, LAYERS)))
    return Measurements.of(study)


def test_scores_are_normalised_by_chance_and_the_full_model(tmp_path: Path) -> None:
    task = FakeTask("arc_easy", by_strategy(full=0.75, skip=0.5), chance=0.25, documents=200)
    curve = measure(tmp_path / "s", task, plans=variants("skip")).curve("skip", "arc_easy")
    assert curve.affected.tolist() == [1, 3, 5, 7]
    assert curve.value == pytest.approx([0.5] * 4)  # (0.5 - 0.25) / (0.75 - 0.25)


def test_the_median_is_over_the_tasks(tmp_path: Path) -> None:
    kept = {"one": 0.9, "two": 0.3, "three": 0.6}
    tasks = [
        FakeTask(name, by_strategy(full=0.6, skip=0.1 + 0.5 * share), chance=0.1, documents=400)
        for name, share in kept.items()
    ]
    measured = measure(tmp_path / "s", *tasks, plans=variants("skip"))
    assert measured.curve("skip").value == pytest.approx([0.6] * 4)
    for name, share in kept.items():
        assert measured.curve("skip", name).value == pytest.approx([share] * 4)


def test_a_task_that_the_full_model_only_guesses_is_left_out(tmp_path: Path) -> None:
    good = FakeTask("good", by_strategy(full=0.8, skip=0.4), documents=400)
    # 0.54 is 0.04 above chance and the standard error 0.025: 1.6 standard errors.
    guessed = FakeTask("guessed", by_strategy(full=0.54, skip=0.1), chance=0.5, documents=400)
    clear = FakeTask("clear", by_strategy(full=0.56, skip=0.53), chance=0.5, documents=400)
    measured = measure(tmp_path / "s", good, guessed, clear, plans=variants("skip"))
    assert measured.scores.tasks == ("clear", "good")
    (left_out,) = measured.scores.left_out
    assert left_out.task == "guessed"
    assert "0.540 ± 0.025 is not above chance, 0.5," in (left_out.left_out or "")
    assert measured.curve("skip").value == pytest.approx([0.5] * 4)


def test_unknown_chance_and_lower_is_better_are_left_out(tmp_path: Path) -> None:
    unknown = FakeTask("unknown", by_strategy(full=0.8, skip=0.4), chance=None)
    lower = FakeTask("lower", by_strategy(full=0.8, skip=0.4))
    good = FakeTask("good", by_strategy(full=0.8, skip=0.4))
    path = write_store(tmp_path / "s", FakeModel(variants("skip"), (unknown, lower, good), LAYERS))
    change(
        path,
        "UPDATE metrics SET higher_is_better = 0 WHERE cell IN"
        " (SELECT cells.id FROM cells JOIN tasks ON tasks.id = task WHERE name = 'lower')",
    )
    scores = Measurements.of(read_store(path)[0]).scores
    assert scores.tasks == ("good",)
    assert {score.task for score in scores.left_out} == {"unknown", "lower"}


def test_seeds_are_averaged_and_their_spread_kept(tmp_path: Path) -> None:
    accuracy = {0: 0.2, 1: 0.4, 2: 0.3}
    task = FakeTask("t", lambda v: 0.5 if v.strategy == "full" else accuracy[v.seed or 0], documents=100)
    curve = measure(tmp_path / "s", task, plans=variants("random")).curve("random")
    where = curve.affected.tolist().index(7)
    assert curve.value[where] == pytest.approx(0.6)
    assert (curve.seeds[where], curve.lowest[where], curve.highest[where]) == (
        3,
        pytest.approx(0.4),
        pytest.approx(0.8),
    )
    # The documents alone would give draws of about 0.6 ± 0.1; the seeds widen them.
    plain = np.mean([measured_draws(tmp_path / f"{s}", a) for s, a in accuracy.items()], axis=0)
    assert curve.draws[:, where].std() > 1.1 * plain.std()


def measured_draws(path: Path, accuracy: float) -> np.ndarray:
    task = FakeTask("t", by_strategy(full=0.5, skip=accuracy), documents=100)
    return measure(path, task, plans=variants("skip")).curve("skip").draws[:, 3]


def test_one_iteration_of_looped_parallel_is_parallel(tmp_path: Path) -> None:
    task = FakeTask("t", by_strategy(full=0.8, parallel=0.4, looped_parallel=0.6))
    measured = measure(tmp_path / "s", task, plans=variants("parallel", "looped-parallel"))
    assert measured.study.iterations == (1, 3)
    assert measured.curve("looped-parallel", iterations=1).value[1:] == pytest.approx([0.5] * 3)
    assert measured.curve("looped-parallel").value[1:] == pytest.approx([0.75] * 3)


def test_what_is_not_finite_is_missing(tmp_path: Path) -> None:
    bad = build("skip", LAYERS, start=1).plan
    one = FakeTask("one", lambda v: None if v.plan == bad else 0.5)
    two = FakeTask("two", lambda v: 0.5)
    measured = measure(tmp_path / "s", one, two, plans=variants("skip"))
    for task in ("one", None):
        curve = measured.curve("skip", task)
        assert (curve.affected.tolist(), curve.missing.tolist()) == ([1, 3, 7], [5])
    assert measured.curve("skip", "two").missing.tolist() == []
    assert measured.study.statuses()["not finite"] == 1


def test_the_full_model_is_exactly_one_in_every_draw(tmp_path: Path) -> None:
    task = FakeTask("t", by_strategy(full=0.31, skip=0.3), chance=0.25, documents=800, exact=False)
    measured = measure(tmp_path / "s", task, plans=variants("skip"))
    point, draws = measured.scores.of("t")
    assert point[measured.study.full] == 1
    assert (draws[:, measured.study.full] == 1).all()


def test_intervals_agree_with_a_plain_bootstrap(tmp_path: Path) -> None:
    task = FakeTask("t", by_strategy(full=0.7, skip=0.45), chance=0.25, documents=500, exact=False)
    measured = measure(tmp_path / "s", task, plans=variants("skip"))
    scores = measured.study.results[0].per_document
    full, skip = scores[measured.study.full], scores[next(v.column for v in measured.study.variants if v.start == 2)]
    random = np.random.default_rng(7)
    ratios = []
    for _ in range(4000):
        chosen = random.integers(500, size=500)
        ratios.append((skip[chosen].mean() - 0.25) / (full[chosen].mean() - 0.25))
    curve = measured.curve("skip")
    where = curve.affected.tolist().index(3)
    assert [curve.low[where], curve.high[where]] == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.025)


def test_plans_are_compared_on_the_documents_they_share() -> None:
    random = np.random.default_rng(0)
    scores = (random.random((3, 200)) < 0.5).astype(float)
    scores[1, 120:] = np.nan
    means = resampled_means(scores, 0, "t")
    assert means.value == pytest.approx([scores[0].mean(), scores[1, :120].mean(), scores[2].mean()])
    assert means.reference == pytest.approx([scores[0].mean(), scores[0, :120].mean(), scores[0].mean()])
    alone = resampled_means(scores[[0, 2]], 0, "t")
    assert means.draws[:, 2] == pytest.approx(alone.draws[:, 1])
    assert means.reference_draws[:, 2] == pytest.approx(alone.reference_draws[:, 0])
    assert means.draws.shape == (DRAWS, 3)
    assert means.draws[:, 1].std() == pytest.approx(0.5 / np.sqrt(120), rel=0.1)


def test_more_documents_narrow_the_interval(tmp_path: Path) -> None:
    widths = []
    for documents in (50, 800):
        task = FakeTask("t", by_strategy(full=0.8, skip=0.4), documents=documents)
        curve = measure(tmp_path / str(documents), task, plans=variants("skip")).curve("skip")
        widths.append(curve.high[0] - curve.low[0])
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.2)


def test_shots_and_bos_settings_stay_apart(tmp_path: Path) -> None:
    zero = FakeTask("t", by_strategy(full=0.8, skip=0.4))
    five = FakeTask("t", by_strategy(full=0.9, skip=0.4), num_fewshot=5)
    other = FakeTask("t", by_strategy(full=0.7, skip=0.4), bos="on")
    path = write_store(tmp_path / "s", FakeModel(variants("skip"), (zero, five, other), LAYERS))
    off, on = read_store(path)
    assert [result.task.name for result in off.results] == ["t 0-shot", "t 5-shot"]
    assert (off.bos, on.bos, [result.task.name for result in on.results]) == ("off", "on", ["t"])


def test_a_variant_that_was_only_run_on_another_model_is_not_missing(tmp_path: Path) -> None:
    task = FakeTask("t", by_strategy(full=0.8, skip=0.4, parallel=0.6))
    both = FakeModel(variants("skip", "parallel"), [task], LAYERS)
    one = FakeModel(variants("skip"), [task], LAYERS, source="example/Other", fingerprint="e" * 64)
    measured = [Measurements.of(study) for study in read_store(write_store(tmp_path / "s", both, one))]
    assert [m.study.model.name for m in measured] == ["Tiny-Model", "Other"]
    assert [bool(m.curve("parallel")) for m in measured] == [True, False]
    assert not len(measured[1].curve("parallel").missing)

"""Groups of tasks in stores with made-up scores: their scores beside their members', older stores, merged ones."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report.data import read_store
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.summary import summary
from jaxpaint.report.tables import flipped_table, plans_table, study_tables
from jaxpaint.results.groups import Group, GroupMetric
from jaxpaint.results.per_document import per_document_text
from jaxpaint.results.plan_scores import plan_scores
from jaxpaint.results.selection import Selection
from jaxpaint.results.store import Store, merge
from jaxpaint.results.tables import results_rows, results_text
from tests.helpers.report_store import FakeModel, FakeTask, write_store

LAYERS = 8
OWN = ("0-3 5-7", "0 7")
# Of 200 and 50 documents; the first plan loses on the larger task and gains on the smaller one.
ACCURACY = {"large": (0.6, 0.5, 0.1), "small": (0.5, 0.8, 0.2), "other": (0.5, 0.35, 0.45)}
SIZES = {"large": 200, "small": 50, "other": 100}
PAIR = Group("pair", "1", ("large", "small"), ("large", "small"), (GroupMetric("acc", False, None),))
ALL = Group("all", "1", ("pair", "other"), ("large", "small", "other"), (GroupMetric("acc", True, ("none",)),))


def fake_task(name: str) -> FakeTask:
    plans = dict(zip(("0-7", *OWN), ACCURACY[name], strict=True))
    return FakeTask(name, lambda variant: plans[str(variant.plan)], chance=0.25, documents=SIZES[name])


def make_store(path: Path, *groups: Group, plans: tuple[str, ...] = OWN, tasks: tuple[str, ...] = tuple(SIZES)) -> Path:
    variants = [build("full", LAYERS), *(Variant(CUSTOM, Plan.parse(text), LAYERS) for text in plans)]
    write_store(path, FakeModel(variants, [fake_task(name) for name in tasks], LAYERS))
    add_groups(path, *groups)
    return path


def add_groups(path: Path, *groups: Group) -> None:
    with Store.open(path, create=False) as store:
        ids = dict(store.connection.execute("SELECT name, id FROM tasks").fetchall())
        for group in groups:
            store.group(group, ids)


def values(path: Path, task: str, column: str = "value") -> list[float]:
    return [row[column] for row in results_rows(path, Selection(tasks=(task,)))]


def test_a_group_stands_before_its_tasks_and_counts_in_their_place(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", PAIR)
    large, small, other = (np.array(values(path, name)) for name in SIZES)
    assert values(path, "pair") == pytest.approx((large + small) / 2)
    errors = [np.array(values(path, name, "stderr")) for name in ("large", "small")]
    assert values(path, "pair", "stderr") == pytest.approx(np.hypot(*errors) / 2)
    heading = results_text(path, "table").split("\n\n")[1].splitlines()
    assert (heading[0].split(), heading[1].split()[:2]) == (["pair", "large", "other", "small"], ["2", "tasks,"])
    assert results_text(path, "markdown").splitlines()[0].startswith("| label | cost | depth | pair | large |")
    assert "pair" in results_text(path, "table", Selection(tasks=("pair",)))
    # By the mean of the three tasks another plan would be the best.
    means = (large + small) / 2 + other, large + small + other
    assert int(np.argmax(means[0])) != int(np.argmax(means[1]))
    (best,) = {row["plan"] for row in results_rows(path, Selection(sort="score", top=1))}
    assert best == ("0-7", *OWN)[int(np.argmax(means[0]))]


def test_the_report_averages_and_judges_groups(tmp_path: Path) -> None:
    (study,) = read_store(make_store(tmp_path / "s", PAIR))
    measured = Measurements.of(study)
    scores = measured.plans
    assert [result.task.name for result in scores.results] == ["pair", "other", "large", "small"]
    assert (scores.averaged, measured.scores.tasks) == (("pair", "other"), ("pair", "other"))
    assert measured.scores.full[0].chance == 0.25
    for row in scores.rows:
        pair, other, large, small = (number.value for number in row.tasks)
        assert pair == pytest.approx((large + small) / 2)
        assert row.average.value == pytest.approx((pair + other) / 2)
        assert row.flips[0] is None
    (alone,) = read_store(make_store(tmp_path / "alone", ALL, PAIR))
    whole = Measurements.of(alone)
    assert whole.plans.averaged == ("all",)
    paired = {row["plan"]: row for row in results_rows(tmp_path / "alone", Selection(tasks=("all",), diff=True))}
    for row in whole.plans.rows:
        if row is not whole.plans.full:
            known = paired[alone.plans[row.column].text]
            assert row.difference.value == pytest.approx(known["difference"])
            # A bootstrap within each task: what the standard error says, but for the noise of 2000 draws.
            half = (row.difference.high - row.difference.low) / 2
            assert half == pytest.approx(1.96 * known["difference_stderr"], rel=0.1)
            assert 0 <= row.p <= 1
    assert "all" in summary("tiny", whole, ())
    tables = {table.name: table for table in study_tables(whole, ())}
    uses = {row[0]: row[-1] for row in tables["full-model"].rows}
    assert uses == {"all": "in the median"} | dict.fromkeys(("pair", *SIZES), "in that of its group")
    assert {row[0] for row in tables["scores"].rows} == {"all", "pair", *SIZES}
    assert "all acc" in plans_table(whole.plans).columns
    assert {row[0] for row in flipped_table(whole.plans, 9).rows} == {*SIZES}


def test_an_older_store_is_read_and_gets_groups(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", PAIR)
    with closing(sqlite3.connect(path)) as connection, connection:
        for part in ("group_members", "task_groups"):
            connection.execute(f"DROP TABLE {part}")
            connection.execute("DELETE FROM checksums WHERE part = ?", (part,))
        connection.execute("PRAGMA user_version = 4")
    before = path.read_bytes()
    assert {row["task"] for row in results_rows(path)} == {*SIZES}
    assert "pair" not in results_text(path, "table")
    merge(tmp_path / "merged", [path, make_store(tmp_path / "new", PAIR)])
    assert "pair" in results_text(tmp_path / "merged", "table")
    assert path.read_bytes() == before
    add_groups(path, PAIR)
    assert results_text(path, "csv") == results_text(tmp_path / "merged", "csv")


def test_merged_stores_have_the_groups_of_all(tmp_path: Path) -> None:
    shards = [
        make_store(tmp_path / f"{number}", PAIR, plans=(plan,), tasks=tuple(names))
        for number, (plan, names) in enumerate(zip(OWN, (SIZES, reversed(SIZES)), strict=True))
    ]  # in which tasks have other ids
    merge(tmp_path / "merged", shards)
    whole = make_store(tmp_path / "whole", PAIR)
    for task in ("pair", "large"):
        assert values(tmp_path / "merged", task) == values(whole, task)
    before = (tmp_path / "merged").read_bytes()
    merge(tmp_path / "merged", shards)
    assert len(before) == len((tmp_path / "merged").read_bytes())
    assert results_text(tmp_path / "merged", "csv").count(",pair,") == 3


def test_a_group_that_was_changed_or_damaged(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", PAIR)
    equal = values(path, "pair")
    by_size = replace(PAIR, metrics=(GroupMetric("acc", True, None),))
    add_groups(path, by_size)
    assert len(values(path, "pair")) == 3, "one group, as it was said last"
    assert values(path, "pair") != pytest.approx(equal)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE task_groups SET definition = '{}'")
    with pytest.raises(UserError, match="is damaged: rows of group_members, task_groups"):
        results_text(path, "csv")
    add_groups(path, PAIR)
    assert values(path, "pair") == equal


def test_the_best_plan_of_each_document_of_a_group(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", PAIR)
    query = "SELECT value FROM document_results WHERE task = ? AND plan = ? ORDER BY document"
    right = {}
    with closing(sqlite3.connect(path)) as connection:
        for task in PAIR.members:
            rows = [connection.execute(query, (task, plan)).fetchall() for plan in ("0-7", *OWN)]
            right[task] = np.array(rows)[..., 0] == 1  # [plans, documents], the full model first
    whole = np.concatenate([*right.values()], axis=1)
    wrong = ~whole[0]
    rescued = int((wrong & whole[1:].any(axis=0)).sum())
    # Of each task's wrong answers what luck gives: a plan's score there is that of the task, and so is a guess's.
    lucky = sum((~own[0]).sum() * (1 - np.prod(1 - own[1:].mean(axis=1))) for own in right.values())
    text = per_document_text(path)
    (row,) = [line for line in text.splitlines() if line.startswith("pair")]
    assert row.split()[:5] == ["pair,", "2", "tasks,", "n=250", "2"]
    assert row.split()[5:8] == [f"{each:.3f}" for each in (*_scores(whole), 1 - (wrong.sum() - rescued) / 250)]
    assert row.split()[8:11] == [str(rescued), "of", str(wrong.sum())]
    shares = (rescued / wrong.sum(), lucky / wrong.sum(), 1 - 0.75**2)
    assert row.split()[11:14] == [f"{each:.1%}" for each in shares]
    shorter = int((whole[0] & whole[1:].any(axis=0)).sum())
    assert row.split()[14:] == [str(shorter), "of", str(whole[0].sum())]
    assert "a group of tasks: all documents" in text
    assert "a group of tasks" not in per_document_text(make_store(tmp_path / "without"))


def _scores(right: np.ndarray) -> tuple[float, float]:
    """The full model's, and that of the best one plan."""
    scores = right.mean(axis=1)
    return scores[0], scores.max()


def test_a_plans_scores_have_those_of_groups(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", PAIR, plans=OWN[:1])
    found = plan_scores(path, "f" * 64, OWN[0], "0-7")
    assert [each.task for each in found] == ["pair", *SIZES]
    rows = {row["plan"]: row for row in results_rows(path, Selection(tasks=("pair",)))}
    own, full = rows[OWN[0]], rows["0-7"]
    assert own["value"] != full["value"]
    for name in ("metric", "value", "stderr", "documents"):
        assert getattr(found[0], name) == own[name]
    assert (found[0].full, found[0].full_stderr) == (full["value"], full["stderr"])
    with pytest.raises(UserError, match="has no score of the plan 7"):
        plan_scores(path, "f" * 64, "7", "0-7")

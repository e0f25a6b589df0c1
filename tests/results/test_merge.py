"""Stores joined: the union of what they know, finished where one is whole, refused where they contradict each other."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results.store import PlanRow, Store, Worker, merge
from tests.helpers import tiny_results


def states(path: Path) -> set[tuple]:
    with Store.open(path, create=False) as store:
        return set(store.connection.execute("SELECT DISTINCT status, documents, seconds FROM results"))


def change(path: Path, statement: str) -> None:
    """As though the store had been written so."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
        connection.execute("DELETE FROM checksums")
    connection.close()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tiny_results.make_store(tmp_path / "whole.sqlite")


# --- shards -------------------------------------------------------------------------------------------------


def test_shards_of_the_plans_make_the_whole(tmp_path: Path, whole: Path) -> None:
    """Ids differ between the shards: the second knows its plans and tasks in another order."""
    shards = [
        tiny_results.make_store(tmp_path / "a.sqlite", plans=(tiny_results.FULL, tiny_results.LOOP)),
        tiny_results.make_store(
            tmp_path / "b.sqlite", plans=(tiny_results.OWN, tiny_results.SKIP), tasks=tuple(tiny_results.TASKS)[::-1]
        ),
    ]
    for path, order in ((tmp_path / "ab.sqlite", shards), (tmp_path / "ba.sqlite", shards[::-1])):
        merge(path, order)
        assert tiny_results.contents(path) == tiny_results.contents(whole)
        assert {state[0] for state in states(path)} == {"finished"}


def test_a_merged_store_is_worked_on(tmp_path: Path, whole: Path) -> None:
    merged = tmp_path / "merged.sqlite"
    merge(
        merged,
        [
            tiny_results.make_store(tmp_path / "a.sqlite", plans=tiny_results.PLANS[:2]),
            tiny_results.make_store(tmp_path / "b.sqlite", plans=tiny_results.PLANS[2:]),
        ],
    )
    with Store.open(merged, create=False) as store:
        before = tiny_results.contents(merged)
        cells = tiny_results.fill(store)
        assert {state.status for state in store.states(cells)} == {"finished"}
    assert tiny_results.contents(merged) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.sqlite", "b.sqlite", "merged.sqlite", "whole.sqlite"]


def test_halves_of_the_documents_are_running_until_a_study_finishes_them(tmp_path: Path, whole: Path) -> None:
    merged = tmp_path / "merged.sqlite"
    merge(
        merged,
        [
            tiny_results.make_store(tmp_path / "a.sqlite", documents=range(2), seconds=2.0),
            tiny_results.make_store(tmp_path / "b.sqlite", documents=range(2, 4), seconds=3.0),
        ],
    )
    assert tiny_results.contents(merged)["scores"] == tiny_results.contents(whole)["scores"]
    assert states(merged) == {("running", 2, 5.0)}
    with Store.open(merged, create=False) as store:
        tiny_results.fill(store, seconds=0.0)
    assert tiny_results.contents(merged) == tiny_results.contents(whole)


def test_a_cell_that_one_store_has_whole_stays_finished(tmp_path: Path, whole: Path) -> None:
    part = tiny_results.make_store(tmp_path / "part.sqlite", documents=range(2))
    begun = tiny_results.make_store(tmp_path / "begun.sqlite", documents=range(1, 3), finish=False)
    for number, order in enumerate(([part, begun, whole], [whole, part, begun], [begun, whole, part])):
        merged = tmp_path / f"merged-{number}.sqlite"
        merge(merged, order)
        assert tiny_results.contents(merged) == tiny_results.contents(whole)


def test_two_parts_that_are_running_stay_so(tmp_path: Path) -> None:
    merged = tmp_path / "merged.sqlite"
    merge(
        merged,
        [
            tiny_results.make_store(tmp_path / "a.sqlite", documents=range(3), finish=False),
            tiny_results.make_store(tmp_path / "b.sqlite", documents=range(3)),
            tiny_results.make_store(tmp_path / "c.sqlite", documents=range(4), finish=False),
        ],
    )
    ((status, documents, seconds),) = states(merged)
    assert (status, documents) == ("running", 3)  # b's metrics, of its documents
    assert seconds == pytest.approx(1.0 + 0.0 + 0.25)


def test_other_models_and_tasks_lie_side_by_side(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.sqlite", "b.sqlite", "c.sqlite")]
    tiny_results.make_store(paths[0], tasks=["arc_easy"])
    tiny_results.make_store(paths[1], tasks=["lambada_openai"])
    with Store.open(paths[2], create=True) as store:
        tiny_results.fill(store, tasks=["arc_easy"])
    change(paths[2], "UPDATE models SET fingerprint = 'def456', source = 'models/other'")
    merge(tmp_path / "merged.sqlite", paths)
    expected = sorted((row for path in paths for row in tiny_results.contents(path)["scores"]), key=repr)
    merged = tiny_results.contents(tmp_path / "merged.sqlite")
    assert merged["scores"] == expected
    assert {row[0] for row in merged["results"]} == {"models/tiny", "models/other"}
    assert {row[-1] for row in merged["results"]} == {"finished"}


# --- into a store that is there, again, and while it is used ---------------------------------------------------


def test_merging_again_changes_nothing(tmp_path: Path, whole: Path) -> None:
    part = tiny_results.make_store(tmp_path / "part.sqlite", plans=tiny_results.PLANS[:2])
    with Store.open(part, create=False) as store, Worker(part) as worker:
        now = datetime.now(UTC)
        store.add_run(worker, now, seconds=3, executed=4, distinct_work=3, separate=9, command="study")
    merge(whole, [part])
    before, times = tiny_results.contents(whole), states(whole)
    assert len(before["runs"]) == 1
    merge(whole, [part, part, whole])
    assert tiny_results.contents(whole) == before
    assert states(whole) == times == {("finished", 4, 1.0)}


def test_a_shard_that_went_on_is_merged_again(tmp_path: Path) -> None:
    """Time is counted once, and of a run's record the later one stays."""
    shard, merged = tiny_results.make_store(tmp_path / "shard.sqlite", documents=range(2)), tmp_path / "merged.sqlite"
    old = tmp_path / "old.sqlite"
    now = datetime.now(UTC)
    with Worker(shard) as worker:
        for seconds, documents in ((5, range(2)), (9, range(4))):
            with Store.open(shard, create=False) as store:
                tiny_results.fill(store, documents=documents, seconds=0.5)
                store.add_run(worker, now, seconds=seconds, executed=4, distinct_work=3, separate=9, command=None)
            merge(merged, [shard])
            if seconds == 5:
                shutil.copy(shard, old)
    merge(merged, [old])
    assert tiny_results.contents(merged) == tiny_results.contents(shard)
    ((_, _, seconds),) = states(merged)
    assert seconds == pytest.approx(1.5 + 2.0 * 0.5)


def test_stores_in_use_are_merged(tmp_path: Path, whole: Path) -> None:
    """Of a source what is written counts, in its log too; the destination's claims stay."""
    with Store.open(tmp_path / "a.sqlite", create=True) as a, Store.open(tmp_path / "b.sqlite", create=True) as b:
        tiny_results.fill(a, plans=tiny_results.PLANS[:2])
        cells = tiny_results.fill(b, plans=tiny_results.PLANS[2:], finish=False, documents=range(3))
        task = b.task(**tiny_results.TASKS["lambada_openai"])
        requests = b.requests(task, [(3, 0, tiny_results.text_hash("lambada_openai", 3, 0))])
        with Worker(b.path) as worker:
            assert b.claim(worker, cells, requests) == requests
            merge(b.path, [a.path])
            assert b.connection.execute("SELECT worker FROM claims").fetchall() == [(worker.id,)]
        tiny_results.fill(b, plans=tiny_results.PLANS[2:])
    assert tiny_results.contents(tmp_path / "b.sqlite") == tiny_results.contents(whole)


def test_analyses_are_joined(tmp_path: Path) -> None:
    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    for path, plans in zip(paths, ([tiny_results.FULL], [tiny_results.SKIP, tiny_results.FULL]), strict=True):
        with Store.open(path, create=True) as store:
            model = store.model(**tiny_results.MODEL)
            for plan, row in zip(store.plans(plans), plans, strict=True):
                store.add_analysis(model, plan, "variance", {"texts": 100}, [row.cost, 1.0])
    merge(tmp_path / "merged.sqlite", paths)
    rows = [(row[1], row[4]) for row in tiny_results.contents(tmp_path / "merged.sqlite")["analyses"]]
    assert rows == [("0-2 5-7", "[6.0,1.0]"), ("0-7", "[8.0,1.0]")]


# --- contradictions -----------------------------------------------------------------------------------------


def other_text(path: Path) -> None:
    change(path, "UPDATE requests SET content = 'changed' WHERE document = 3 AND number = 1")


def other_score(path: Path) -> None:
    change(path, "UPDATE scores SET loglikelihood = loglikelihood + 0.0011 WHERE request = 5 AND cell = 2")


def no_score(path: Path) -> None:
    change(path, "UPDATE scores SET loglikelihood = NULL WHERE request = 5 AND cell = 2")


def other_plan(path: Path) -> None:
    with Store.open(path, create=False) as store:
        other = store.plans([PlanRow("0 7", 2, 2, "custom", 8, "0 7")])[0]
    change(path, f"UPDATE variants SET plan = {other} WHERE label = '{tiny_results.SKIP.label}'")


@pytest.mark.parametrize(
    ("contradict", "message"),
    [
        (other_text, "task arc_easy, document 3, request 1 has another text than in the other stores"),
        (other_score, r"arc_easy, document 2, request 0 under plan 0-2 5-7 has log-likelihood -6\.28\d+ .* -6\.28\d+"),
        (no_score, "request 0 under plan 0-2 5-7 has log-likelihood not finite in one store and -6.28"),
        (other_plan, "'skip start=2' of 8 layers stands for the plan 0 7 in one store and 0-2 5-7 in another"),
    ],
)
@pytest.mark.parametrize("into", ["new", "existing"])
def test_contradictions_are_refused(
    tmp_path: Path, whole: Path, contradict: Callable[[Path], None], message: str, into: str
) -> None:
    bad = tiny_results.make_store(tmp_path / "bad.sqlite")
    contradict(bad)
    good = tiny_results.make_store(tmp_path / "good.sqlite", documents=range(9), plans=(tiny_results.SKIP,))
    before, files = tiny_results.contents(whole), sorted(tmp_path.iterdir())
    destination, sources = (whole, [bad]) if into == "existing" else (tmp_path / "merged.sqlite", [whole, bad, good])
    with pytest.raises(UserError, match=message) as caught:
        merge(destination, sources)
    assert str(bad if into == "new" else whole) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tiny_results.contents(whole) == before
    assert sorted(tmp_path.iterdir()) == files


def test_of_scores_that_are_nearly_equal_the_first_stays(tmp_path: Path, whole: Path) -> None:
    other = tiny_results.make_store(tmp_path / "other.sqlite")
    change(other, "UPDATE scores SET loglikelihood = loglikelihood + 0.0009, is_greedy = 1 - is_greedy")
    before = tiny_results.contents(whole)
    merge(whole, [other])
    assert tiny_results.contents(whole) == before


def test_what_is_not_finite_in_both_is_no_contradiction(tmp_path: Path, whole: Path) -> None:
    other = tiny_results.make_store(tmp_path / "other.sqlite")
    for path in (whole, other):
        no_score(path)
        change(path, "UPDATE cells SET status = 'not finite' WHERE id = 2")
    before = tiny_results.contents(whole)
    merge(whole, [other])
    assert tiny_results.contents(whole) == before


def test_files_that_cannot_be_merged(tmp_path: Path, whole: Path) -> None:
    missing, text = tmp_path / "missing.sqlite", tmp_path / "notes.txt"
    text.write_text("nothing of the kind" * 50)
    before, files = tiny_results.contents(whole), sorted(tmp_path.iterdir())
    for destination in (whole, tmp_path / "new.sqlite"):
        with pytest.raises(UserError, match=r"missing\.sqlite does not exist"):
            merge(destination, [whole, missing])
        with pytest.raises(UserError, match=r"notes\.txt: this is not a results store"):
            merge(destination, [whole, text])
    with pytest.raises(UserError, match=r"notes\.txt: this is not a results store"):
        merge(text, [whole])
    with pytest.raises(UserError, match=r"new\.sqlite: No such file or directory"):
        merge(tmp_path / "absent" / "new.sqlite", [whole])
    assert tiny_results.contents(whole) == before
    assert sorted(tmp_path.iterdir()) == files


def test_what_is_left_of_an_old_store_does_not_spoil_a_new_one(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "new.sqlite-wal").write_bytes(b"old")
    with pytest.raises(UserError, match=r"new\.sqlite-wal is left over from a results store that is gone; remove it"):
        merge(tmp_path / "new.sqlite", [whole])


def test_a_finished_cell_keeps_its_metrics_when_the_other_store_knows_less(tmp_path: Path, whole: Path) -> None:
    """Equal scores, but the other's metrics were computed from half of the documents."""
    other = tiny_results.make_store(tmp_path / "other.sqlite")
    with Store.open(other, create=False) as store:
        for name in tiny_results.TASKS:
            cells = store.cells(
                store.model(**tiny_results.MODEL),
                store.task(**tiny_results.TASKS[name]),
                store.plans(tiny_results.PLANS),
            )
            for cell, plan in zip(cells, tiny_results.PLANS, strict=True):
                tiny_results.finish_cell(store, cell, name, plan, range(2))
    expected = tiny_results.contents(whole)
    for number, order in enumerate(([other, whole], [whole, other])):
        merge(tmp_path / f"merged-{number}.sqlite", order)
        assert tiny_results.contents(tmp_path / f"merged-{number}.sqlite") == expected


def test_a_link_s_target_is_made_and_what_a_kill_left_goes(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "link.sqlite").symlink_to("real.sqlite")
    (tmp_path / ".real.sqlite.partial-99999999").mkdir()
    merge(tmp_path / "link.sqlite", [whole])
    assert (tmp_path / "link.sqlite").is_symlink()
    assert tiny_results.contents(tmp_path / "real.sqlite") == tiny_results.contents(whole)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []

"""Bits that flip, pages that tear, values that are none: found, named, taken out, and never a number of a result."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.report.data import read_store
from jaxpaint.results.document_texts import DocumentText
from jaxpaint.results.layout import VERSION
from jaxpaint.results.merge import merge
from jaxpaint.results.store import MetricRow, Store, reading
from jaxpaint.results.tables import FORMATS, results_text
from tests.helpers.tiny_results import MODEL, PLANS, contents, fill

OLD = Path(__file__).parents[1] / "old" / "study.sqlite.gz"
GSM8K: dict[str, Any] = {"name": "gsm8k", "version": "3", "num_fewshot": 5, "bos": "off", "settings": {"kv": "mean"}}


def complete(path: Path) -> Path:
    """All that a study writes: scores, texts, metrics, an analysis. Again, it adds what is missing."""
    with Store.open(path, create=True) as store:
        fill(store, documents=range(6))
        model, plan = store.model(**MODEL), store.plans(PLANS)[0]
        if store.analysis(model, plan, "similarity", {"samples": 3}) is None:
            store.add_analysis(model, plan, "similarity", {"samples": 3}, [[1.0, 0.5], [0.5, 1.0]])
        task = store.task(**GSM8K, chance=0.0, main_metric="exact_match")
        requests = store.requests(task, [(number, 0, f"text {number}") for number in range(4)])
        texts = [(number, DocumentText(f"how many of {number}?", "größer als 3")) for number in range(4)]
        store.add_document_texts(task, texts)
        (cell,) = store.cells(model, task, [plan])
        store.add_texts([(cell, request, f"größer als {n}") for n, request in enumerate(requests)], {cell: 1.0})
        store.finish(
            cell,
            documents=4,
            status="finished",
            metrics=[MetricRow("exact_match", "strict-match", 0.5, 0.1, True)],
            document_scores=[(number, "exact_match", "strict-match", 1.0) for number in range(4)],
            environment={"device": "cpu"},
        )
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete(tmp_path_factory.mktemp("sound") / "study.sqlite")


def everything(path: Path) -> list[str]:
    return [results_text(path, format) for format in FORMATS]


def without_times(path: Path) -> dict[str, list[tuple]]:
    """What a store says, seconds and environments left out: these are of the process that computed it."""
    found = contents(path)
    return {name: found[name] for name in ("results", "scores", "documents", "texts", "analyses")}


def one_line(error: UserError, path: Path) -> str:
    assert "\n" not in str(error)
    assert str(path) in str(error)
    return str(error)


def check_survived(path: Path, sound: Path) -> str:
    """A reader says what the sound store says, or refuses; a writer loses nothing else and may go on."""
    try:
        assert everything(path) == everything(sound)
    except UserError as error:
        one_line(error, path)
    try:
        read_store(path)
    except UserError as error:
        one_line(error, path)
    try:
        with Store.open(path, create=False) as store:
            mended = store.mended
    except UserError as error:
        return one_line(error, path)
    if not mended:
        assert everything(path) == everything(sound)
    for name, rows in without_times(path).items():
        if name != "results":
            assert set(map(repr, rows)) <= set(map(repr, without_times(sound)[name]))
    complete(path)
    assert without_times(path) == without_times(sound)
    return mended


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_any_flipped_bit(tmp_path: Path, sound: Path, position: float, bit: int) -> None:
    data = bytearray(sound.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    check_survived(written(tmp_path, bytes(data)), sound)


@given(keep=st.floats(0, 1), junk=st.binary(max_size=200))
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_truncation_and_what_is_written_after_it(tmp_path: Path, sound: Path, keep: float, junk: bytes) -> None:
    data = sound.read_bytes()
    check_survived(written(tmp_path, data[: int(keep * len(data))] + junk), sound)


@given(position=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=4096))
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_over_any_others(tmp_path: Path, sound: Path, position: float, junk: bytes) -> None:
    data, start = bytearray(sound.read_bytes()), int(position * sound.stat().st_size)
    data[start : start + len(junk)] = junk
    check_survived(written(tmp_path, bytes(data)), sound)


def written(folder: Path, data: bytes) -> Path:
    for left in folder.glob("bad.sqlite*"):
        left.unlink()
    path = folder / "bad.sqlite"
    path.write_bytes(data)
    return path


def changed(folder: Path, source: Path, statement: str) -> Path:
    """A copy of a store in which SQL changed something behind the sums' back."""
    path = written(folder, source.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(statement).rowcount > 0
    return path


CHANGES = {
    "a score": "UPDATE scores SET loglikelihood = loglikelihood * (1 + 1e-15) WHERE (cell, request) = (2, 3)",
    "a score that is text": "UPDATE scores SET loglikelihood = 'much' WHERE (cell, request) = (2, 3)",
    "a score that is not there": "UPDATE scores SET loglikelihood = NULL WHERE (cell, request) = (2, 3)",
    "a score's greediness": "UPDATE scores SET is_greedy = 1 - is_greedy WHERE (cell, request) = (2, 3)",
    "a score less": "DELETE FROM scores WHERE (cell, request) = (2, 3)",
    "two scores exchanged": "UPDATE scores SET loglikelihood = (SELECT -8.0) WHERE cell = 2 AND request < 3",
    "a text": "UPDATE scores SET text = 'größer als 7' WHERE text = 'größer als 2'",
    "a text that is bytes": "UPDATE scores SET text = CAST(text AS BLOB) WHERE text = 'größer als 2'",
    "a text that is no UTF-8": "UPDATE scores SET text = CAST(x'ff41' AS TEXT) WHERE text = 'größer als 2'",
    "a metric": "UPDATE metrics SET value = 0.9 WHERE cell = 1",
    "a metric's error": "UPDATE metrics SET stderr = NULL WHERE cell = 1",
    "a metric's name": "UPDATE metrics SET metric = 'bcc' WHERE cell = 1 AND metric = 'acc'",
    "a metric that is infinite": "UPDATE metrics SET value = 9e999 WHERE cell = 1",
    "a document's score": "UPDATE document_scores SET value = 0.5 WHERE cell = 1 AND document = 3",
    "a document's number": "UPDATE document_scores SET document = 77 WHERE cell = 1 AND document = 3",
    "a cell's documents": "UPDATE cells SET documents = 5 WHERE id = 3",
    "a cell's status": "UPDATE cells SET status = 'finishee' WHERE id = 3",
    "a cell's plan": "UPDATE cells SET plan = 99 WHERE id = 3",
    "a cell's seconds": "UPDATE cells SET seconds = 'long' WHERE id = 3",
    "a plan's text": "UPDATE plans SET text = '0-6' WHERE id = 2",
    "a plan's cost": "UPDATE plans SET cost = 'dear' WHERE id = 2",
    "a plan's id": "UPDATE plans SET id = 77 WHERE id = 2",
    "a label": "UPDATE variants SET label = 'skip start=9' WHERE plan = 2",
    "a task's settings": "UPDATE tasks SET settings = '[[[[[' WHERE id = 1",
    "a task's chance": "UPDATE tasks SET chance = 0.5 WHERE id = 1",
    "a model's layers": "UPDATE models SET num_layers = 1000000000",
    "a fingerprint": "UPDATE models SET fingerprint = 'abc124'",
    "a request's hash": "UPDATE requests SET content = 'other' WHERE id = 4",
    "a document's text": "UPDATE document_texts SET answer = 'größer als 4' WHERE document = 2",
    "a document's text less": "DELETE FROM document_texts WHERE document = 2",
    "an analysis": "UPDATE analyses SET value = '[[1.0,0.5],[0.5,2.0]]'",
    "an analysis that is no JSON": "UPDATE analyses SET value = 'much'",
    "an environment": "UPDATE environments SET description = 'null' WHERE id = 1",
    "a sum": "UPDATE checksums SET value = value + 1 WHERE part = 'scores' AND owner = 2",
    "a sum's owner": "UPDATE checksums SET owner = 77 WHERE part = 'metrics' AND owner = 2",
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.few(17)
def test_whatever_changed_is_named_taken_out_and_computed_again(tmp_path: Path, sound: Path, what: str) -> None:
    path = changed(tmp_path, sound, CHANGES[what])
    for use in (everything, read_store):
        with pytest.raises(UserError, match="is damaged: ") as caught:
            use(path)
        assert "the same study again computes that anew" in one_line(caught.value, path)
    assert check_survived(path, sound)


def test_a_result_is_named_by_task_and_plan_and_the_others_are_kept(tmp_path: Path, sound: Path) -> None:
    path = changed(tmp_path, sound, CHANGES["a score"])
    with pytest.raises(UserError, match=r"1 result \(arc_easy under 0-2 5-7\)"), reading(path):
        pass
    with Store.open(path, create=False) as store:
        assert store.mended == "1 result (arc_easy under 0-2 5-7)"
        (left,) = store.connection.execute("SELECT count(*) FROM scores").fetchone()
        assert left == 12 * 8 + 4 - 12
    with Store.open(path, create=False) as store:
        assert store.mended == ""


def test_merging_leaves_out_what_is_damaged_and_says_so(tmp_path: Path, sound: Path) -> None:
    path = changed(tmp_path, sound, CHANGES["a document's score"])
    before, merged = path.read_bytes(), tmp_path / "merged.sqlite"
    (line,) = merge(merged, [path])
    assert line == f"left out of results store {path}, where it is damaged: 1 result (arc_easy under 0-7)"
    assert path.read_bytes() == before
    everything(merged)
    assert merge(merged, [sound]) == []
    assert without_times(merged) == without_times(sound)
    assert [file for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_damaged_destination_is_mended_by_what_is_merged_into_it(tmp_path: Path, sound: Path) -> None:
    path = changed(tmp_path, sound, CHANGES["a metric"])
    (line,) = merge(path, [sound])
    assert "taken out of results store" in line
    assert without_times(path) == without_times(sound)


# --- the version before, which had no sums ------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path, gzip.decompress(OLD.read_bytes()))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_an_older_store_is_read_as_it_is_and_gets_sums_from_whoever_writes(tmp_path: Path, old: Path) -> None:
    before = old.read_bytes()
    shown = everything(old)
    read_store(old)
    assert (old.read_bytes(), version(old)) == (before, 2)
    with Store.open(old, create=False) as store:
        assert store.mended == ""
    assert version(old) == VERSION
    assert everything(old) == shown
    found = changed(tmp_path, old, "UPDATE scores SET loglikelihood = -1.0 WHERE request = 1 AND cell = 1")
    with pytest.raises(UserError, match="is damaged: 1 result"):
        everything(found)


def test_an_older_store_stays_as_it_is_where_getting_sums_fails(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill would leave it: the next one goes on from there."""
    shown = everything(old)
    with monkeypatch.context() as patch:
        patch.setattr("jaxpaint.results.checksums.computed", _fails)
        with pytest.raises(KeyboardInterrupt):
            Store.open(old, create=False)
    assert everything(old) == shown
    with Store.open(old, create=False) as store:
        assert store.connection.execute("SELECT count(*) FROM checksums").fetchone()[0] > 0
    assert everything(old) == shown


def _fails(*_: object) -> None:
    raise KeyboardInterrupt


def test_old_and_new_stores_are_merged(tmp_path: Path, old: Path, sound: Path) -> None:
    before = old.read_bytes()
    merged = tmp_path / "merged.sqlite"
    assert merge(merged, [old, sound]) == []
    assert merge(old, [sound]) == []
    assert (old.read_bytes() != before, version(merged), version(old)) == (True, VERSION, VERSION)
    assert without_times(merged) == without_times(old)
    assert changed(tmp_path, merged, CHANGES["a score"])
    with pytest.raises(UserError, match="is damaged"):
        everything(tmp_path / "bad.sqlite")


WRONG: dict[str, str] = {
    "text for a number": "UPDATE metrics SET value = 'high' WHERE cell = 1",
    "bytes for a text": "UPDATE plans SET text = x'ff00' WHERE id = 1",
    "text that is no UTF-8": "UPDATE models SET source = CAST(x'ff41' AS TEXT)",
    "nothing for a number": "UPDATE tasks SET settings = '' WHERE id = 1",
    "settings that are a list": "UPDATE tasks SET settings = '[1]' WHERE id = 1",
    "settings nested deep": f"UPDATE tasks SET settings = '{'[' * 5000}' WHERE id = 1",
    "an analysis nested deep": f"UPDATE analyses SET value = '{'[' * 900}1{']' * 900}'",
    "an analysis of words": "UPDATE analyses SET value = '[[\"a\"]]'",
    "an infinite number": "UPDATE metrics SET value = 9e999 WHERE cell = 1",
    "too many layers": "UPDATE models SET num_layers = 1000000000000",
    "a plan that is not there": "UPDATE cells SET plan = 99 WHERE id = 1",
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("use", [everything, read_store])
def test_values_of_the_wrong_kind_in_an_older_store(
    tmp_path: Path, old: Path, what: str, use: Callable[[Path], object]
) -> None:
    path = changed(tmp_path, old, WRONG[what])
    with pytest.raises(UserError) as caught:
        use(path)
    one_line(caught.value, path)

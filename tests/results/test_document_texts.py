"""What people see of documents: short, once a task, merged, and no file is too old for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jaxpaint.results.document_texts import ANSWER, LEFT_OUT, QUESTION, DocumentText, shortened
from jaxpaint.results.store import Store, merge
from jaxpaint.results.tables import results_text
from tests.helpers import tiny_results
from tests.helpers.tiny_results import TASKS, contents, make_store


def with_texts(path: Path, *documents: int) -> Path:
    make_store(path)
    with Store.open(path, create=False) as store:
        task = store.task(**TASKS["arc_easy"])
        store.add_document_texts(task, [(number, DocumentText(f"Q{number}", f"A{number}")) for number in documents])
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a b\n", "a b"),
        ("0123456789", "0123456789"),
        ("0123456789a", "01 … 6789a"),
        ("01 3456789 bcde", "01 … bcde"),
        ("\x1b\ud800", r"\x1b\ud800"),
    ],
)
def test_the_middle_of_long_texts_is_left_out(text: str, expected: str) -> None:
    assert shortened(text, 10) == expected


def test_texts_are_kept_once_and_short(tmp_path: Path) -> None:
    path = with_texts(tmp_path / "study.sqlite", 1)
    with Store.open(path, create=False) as store:
        task = store.task(**TASKS["arc_easy"])
        assert store.documents_without_text(task, {2, 1, 0}) == [0, 2]
        store.add_document_texts(task, [(1, DocumentText("other", "other")), (2, DocumentText("q" * 999, "a" * 999))])
    ((_, *first), (_, number, question, answer)) = contents(path)["texts"]
    assert first == [1, "Q1", "A1"]
    assert (number, len(question), len(answer)) == (2, QUESTION, ANSWER)
    assert LEFT_OUT in question
    with Store.open(path, create=False) as store:
        assert store.mended == ""  # sums are those of the rows


def test_merged_stores_have_the_texts_of_both(tmp_path: Path) -> None:
    paths = [with_texts(tmp_path / "a.sqlite", 0, 1), with_texts(tmp_path / "b.sqlite", 1, 3)]
    merge(tmp_path / "merged.sqlite", [*paths, tiny_results.make_store(tmp_path / "without.sqlite")])
    assert contents(tmp_path / "merged.sqlite")["texts"] == [("arc_easy", n, f"Q{n}", f"A{n}") for n in (0, 1, 3)]


def test_a_store_of_before_is_read_merged_and_continued(tmp_path: Path) -> None:
    path = make_store(tmp_path / "old.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE document_texts")
        connection.execute("PRAGMA user_version = 3")
    before, shown = path.read_bytes(), results_text(path, "csv")
    merge(tmp_path / "merged.sqlite", [path, with_texts(tmp_path / "new.sqlite", 2)])
    assert path.read_bytes() == before
    assert contents(tmp_path / "merged.sqlite")["texts"] == [("arc_easy", 2, "Q2", "A2")]
    with Store.open(path, create=False) as store:
        assert store.mended == ""
        task = store.task(**TASKS["arc_easy"])
        store.add_document_texts(task, [(0, DocumentText("Q0", "A0"))])
    assert results_text(path, "csv") == shown
    assert contents(path)["texts"] == [("arc_easy", 0, "Q0", "A0")]

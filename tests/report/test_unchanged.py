"""A report that would come out the same is not drawn again; of anything else it is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.report import write_report
from tests.helpers.tiny_results import make_store


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A report of study.sqlite, whose files are all of the year 2001."""
    make_store(tmp_path / "study.sqlite")
    write_report(tmp_path / "study.sqlite", tmp_path / "report")
    _of_2001(tmp_path / "report")
    return tmp_path


def _of_2001(folder: Path) -> None:
    for file in [folder, *folder.rglob("*")]:
        os.utime(file, (10**9, 10**9))


def _is_new(folder: Path) -> bool:
    write_report(folder / "study.sqlite", folder / "report")
    return (folder / "report" / "report.html").stat().st_mtime != 10**9


def test_of_an_unchanged_store_it_stays(made: Path) -> None:
    assert not _is_new(made)


def test_another_result_draws_it_again(made: Path) -> None:
    with closing(sqlite3.connect(made / "study.sqlite")) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE cell = (SELECT max(cell) FROM metrics)")
        connection.execute("DELETE FROM checksums WHERE part = 'metrics' AND owner NOT IN (SELECT cell FROM metrics)")
    assert _is_new(made)


@pytest.mark.slow
def test_a_missing_figure_draws_it_again(made: Path) -> None:
    next((made / "report" / "figures").rglob("*.svg")).unlink()
    assert _is_new(made)


def test_a_store_of_another_name_draws_it_again(made: Path) -> None:
    (made / "study.sqlite").rename(made / "other.sqlite")
    write_report(made / "other.sqlite", made / "report")
    assert "other.sqlite" in (made / "report" / "report.html").read_text()


def test_a_damaged_store_is_told(made: Path) -> None:
    with closing(sqlite3.connect(made / "study.sqlite")) as connection, connection:
        connection.execute("UPDATE metrics SET value = value + 1 WHERE cell = (SELECT max(cell) FROM metrics)")
    with pytest.raises(UserError, match="damaged"):
        write_report(made / "study.sqlite", made / "report")

"""Processes that search one store: killed, and two at once, they come to the outcome of one that nothing disturbed."""

from __future__ import annotations

import csv
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from convert import convert
from tests.helpers.processes import start
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.slow

COMMAND = "from jaxpaint.cli import script; script()"


def scored(store: Path) -> int:
    if not store.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM scores").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


def front(file: Path) -> list[dict[str, object]]:
    """Texts as they are, numbers nearly: of two processes each computes batches of its own."""
    numbers = ("search", "held out", "held out stderr", "against reference", "shrinkage")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return [
        {
            name: pytest.approx(float(value), abs=1e-4) if name in numbers and value else value
            for name, value in row.items()
            if name in (*numbers, "role", "name", "plan", "cost", "depth")
        }
        for row in rows
    ]


def test_killed_and_two_at_once(tmp_path: Path) -> None:
    model = convert(make_folder(tmp_path / "model"), tmp_path / "decoder")
    tasks = ",".join(make_task(tmp_path, name, documents=40) for name in ("tiny_choice", "tiny_word"))

    def command(store: str, table: str) -> list[object]:
        methods = ("--methods", "greedy,halving,evolution", "--plans", 60)
        own = ("--budget", "cost=0.6", "--dtype", "float32", "--batch-tokens", 128)
        return ["search", "--model", model, "--tasks", tasks, *own, *methods, "--store", tmp_path / store,
                "--csv", tmp_path / table]  # fmt: skip

    def ended(process) -> str:
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said

    ended(start(COMMAND, tmp_path, *command("alone.sqlite", "alone.csv")))
    for _ in range(2):
        before = scored(tmp_path / "killed.sqlite")
        process = start(COMMAND, tmp_path, *command("killed.sqlite", "killed.csv"))
        while scored(tmp_path / "killed.sqlite") < before + 200:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.kill()
        process.communicate()
    assert not (tmp_path / "killed.csv").exists()
    two = [start(COMMAND, tmp_path, *command("killed.sqlite", f"{name}.csv")) for name in ("one", "two")]
    for process in two:
        ended(process)
    expected = front(tmp_path / "alone.csv")
    assert len(expected) > 2
    with (tmp_path / "one.csv").open() as file:
        assert [row["plan"] for row in csv.DictReader(file)] == [row["plan"] for row in expected]
    for name in ("one", "two"):
        assert front(tmp_path / f"{name}.csv") == expected
    assert scored(tmp_path / "killed.sqlite") == scored(tmp_path / "alone.sqlite")

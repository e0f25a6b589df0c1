"""Studies in real processes: killed at random moments, two at once on one store, and in shards."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from convert import convert
from tests.helpers.processes import start
from tests.helpers.study_store import assert_equal_stores, rows, scores
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.slow

KILLS = 20
STEP_SECONDS = 0.2
STEP_SECONDS_KILLED = 0.6  # so that all kills fall into the work
DEADLINE = 300

# The command, its engine slowed down, and a log of what it computes and of what it hands to the store.
COMMAND = """
import json, sys, time
from jaxpaint import cli
from jaxpaint.engine import score as sweep
from jaxpaint.results.store import Store

log, seconds, *arguments = sys.argv[1:]
engine, add_scores = sweep.sweep, Store.add_scores

def note(entry):
    with open(log, "a") as file:
        file.write(json.dumps(entry) + "\\n")

def slow_sweep(model, batches, plans, **options):
    for found in engine(model, batches, plans, **options):
        time.sleep(float(seconds))
        note({"computed": len(found.plans) * len(found.batch.requests)})
        yield found

def logged(self, scores, seconds):
    scores = list(scores)
    note({"scores": [score[:2] for score in scores]})
    add_scores(self, scores, seconds)

sweep.sweep, Store.add_scores = slow_sweep, logged
sys.exit(cli.main(arguments))
"""


@dataclass(frozen=True)
class Log:
    """What a process said: the numbers of scores it computed, and the (cell, request) it was about to write."""

    computed: tuple[int, ...]
    written: tuple[tuple[int, int], ...]


def read_log(path: Path) -> Log:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return Log(
        tuple(entry["computed"] for entry in entries if "computed" in entry),
        tuple(tuple(pair) for entry in entries for pair in entry.get("scores", ())),
    )


@dataclass(frozen=True)
class Study:
    """The command of one study, in a folder for its stores and logs."""

    folder: Path
    arguments: tuple[str, ...]

    def start(self, store: Path, log: Path, *more: str, step_seconds: float = 0.0) -> subprocess.Popen[str]:
        return start(COMMAND, self.folder, log, step_seconds, "study", *self.arguments, "--store", store, *more)


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    told = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    for process, text in zip(processes, told, strict=True):
        assert process.returncode == 0, text
    return told


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Eleven plans on three tasks."""
    folder = tmp_path_factory.mktemp("study")
    store = convert(make_folder(folder / "model"), folder / "store")
    tasks = [make_task(folder / "tasks", name) for name in ("tiny_choice", "tiny_word", "tiny_text")]
    options = {
        "--model": store,
        "--dtype": "float32",
        "--tasks": ",".join(tasks),
        "--strategies": "skip,reverse,middle-repeat,parallel,looped-parallel",
        "--batch-tokens": 128,
    }
    return Study(folder, tuple(str(word) for option in options.items() for word in option))


@pytest.fixture(scope="module")
def undisturbed(study) -> Path:
    store = study.folder / "undisturbed.sqlite"
    finish(study.start(store, study.folder / "undisturbed.log"))
    return store


def stored(store: Path) -> set[tuple[int, int]]:
    if not store.exists() or not rows(store, "SELECT 1 FROM sqlite_master WHERE name = 'scores'"):
        return set()
    return {(row["cell"], row["request"]) for row in rows(store, "SELECT cell, request FROM scores")}


def assert_nothing_twice(written: Sequence[tuple[int, int]], before: set[tuple[int, int]]) -> None:
    assert len(set(written)) == len(written)
    assert not before.intersection(written)


def test_twenty_kills_lose_nothing(study, undisturbed, tmp_path):
    store, moments = tmp_path / "study.sqlite", random.Random(0)
    total = len(scores(undisturbed))
    before: set[tuple[int, int]] = set()
    for kill in range(KILLS):
        log = tmp_path / f"{kill}.log"
        process = study.start(store, log, step_seconds=STEP_SECONDS_KILLED)
        if moments.random() < 0.25:
            time.sleep(moments.uniform(0.5, 12))  # at any moment: also while it starts
        else:
            deadline = time.monotonic() + DEADLINE
            while not log.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 2.5))
        process.kill()
        told = process.communicate()[0]
        assert process.returncode < 0, f"the study ended before kill {kill}: {told}"
        found, after = read_log(log), stored(store)
        assert_nothing_twice(found.written, before)
        assert before <= after <= before.union(found.written)
        before = after
    assert 0 < len(before) < total
    log = tmp_path / "last.log"
    finish(study.start(store, log))
    found = read_log(log)
    assert_nothing_twice(found.written, before)
    assert sum(found.computed) == len(found.written) == total - len(before)
    assert_equal_stores(store, undisturbed)
    assert not list(tmp_path.glob("*-workers/*"))


def test_two_workers_at_once_divide_the_work(study, undisturbed, tmp_path):
    store = tmp_path / "study.sqlite"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    finish(*(study.start(store, log, step_seconds=STEP_SECONDS) for log in logs))
    first, second = map(read_log, logs)
    assert_nothing_twice((*first.written, *second.written), set())
    assert first.written
    assert second.written
    total = len(scores(undisturbed))
    assert sum(first.computed) + sum(second.computed) == len(first.written) + len(second.written) == total
    work = rows(store, "SELECT worker, executed FROM runs")
    assert len({row["worker"] for row in work}) == 2
    (whole,) = rows(undisturbed, "SELECT executed FROM runs")
    assert sum(row["executed"] for row in work) == whole["executed"]
    assert_equal_stores(store, undisturbed)


def test_the_work_of_a_killed_worker_is_taken_over_by_a_live_one(study, undisturbed, tmp_path):
    store = tmp_path / "study.sqlite"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    # Long, so that much is left when the second has started, however busy the machine is.
    first = study.start(store, logs[0], step_seconds=10 * STEP_SECONDS)
    while not read_log(logs[0]).computed:
        assert first.poll() is None
        time.sleep(0.02)
    second = study.start(store, logs[1], step_seconds=STEP_SECONDS / 4)
    while not read_log(logs[1]).computed:
        assert second.poll() is None
        time.sleep(0.02)
    first.kill()
    first.communicate()
    finish(second)
    assert_equal_stores(store, undisturbed)


def test_shards_in_processes_merge_into_the_whole(study, undisturbed, tmp_path):
    stores = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    finish(
        *(
            study.start(store, store.with_suffix(".log"), "--shard", f"{number}/2")
            for number, store in enumerate(stores, 1)
        )
    )
    parts = [scores(store) for store in stores]
    assert all(parts)
    assert not {plan for plan, *_ in parts[0]} & {plan for plan, *_ in parts[1]}
    merged = tmp_path / "merged.sqlite"
    command = [sys.executable, "-m", "jaxpaint.cli", "results", "--merge", str(merged), *map(str, stores)]
    subprocess.run(command, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
    assert_equal_stores(merged, undisturbed)
    log = tmp_path / "again.log"
    finish(study.start(merged, log))
    assert not read_log(log).computed

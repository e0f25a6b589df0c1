"""Several processes on one store: each score is computed once, and a dead worker's claims are taken over."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results.store import Store, Worker
from tests.helpers.tiny_results import FULL, MODEL, SKIP, TASKS, contents
from tests.results.test_file import python


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "study.sqlite", create=True) as store:
        yield store


def setting(store: Store, **model: str) -> tuple[list[int], list[int]]:
    """Two cells and ten requests of one task."""
    task = store.task(**TASKS["arc_easy"])
    requests = store.requests(task, [(document, 0, "x") for document in range(10)])
    return store.cells(store.model(**MODEL | model), task, store.plans([FULL, SKIP])), requests


def test_two_workers_divide_the_requests(store: Store, tmp_path: Path) -> None:
    cells, requests = setting(store)
    with Worker(store.path) as first, Worker(store.path) as second:
        assert first.id != second.id
        assert store.claim(first, cells, requests[:4]) == requests[:4]
        assert store.claim(second, cells, requests[2:6]) == requests[4:6]
        assert store.claim(first, cells, requests[:6]) == requests[:4]  # what it has it keeps
        store.release(first, requests[:2])
        assert store.claim(second, cells, requests) == requests[:2] + requests[4:]
        store.release(second)
        assert store.claim(first, cells, requests) == requests
    assert not (tmp_path / "study.sqlite-workers").exists()


def test_only_what_misses_a_score_is_claimed(store: Store) -> None:
    cells, requests = setting(store)
    done, half = requests[0], requests[1]
    store.add_scores([(cells[0], done, -1, True), (cells[1], done, -1, True), (cells[0], half, -1, True)], {})
    with Worker(store.path) as worker:
        assert store.claim(worker, cells[:1], requests) == requests[2:]
        assert store.claim(worker, cells, requests[::-1]) == requests[:0:-1]
        assert store.claim(worker, [], requests) == []
        assert store.claim(worker, cells, []) == []


def test_another_models_requests_are_free(store: Store) -> None:
    cells, requests = setting(store)
    others, _ = setting(store, fingerprint="another")
    with Worker(store.path) as first, Worker(store.path) as second:
        assert store.claim(first, cells, requests) == requests
        assert store.claim(second, others, requests) == requests


def test_who_ends_without_releasing_is_not_waited_for(store: Store) -> None:
    cells, requests = setting(store)
    with Worker(store.path) as first:
        store.claim(first, cells, requests)
    with Worker(store.path) as second:
        assert store.claim(second, cells, requests) == requests


def test_a_store_whose_workers_cannot_be_told_apart(store: Store) -> None:
    store.path.with_name("study.sqlite-workers").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot make the worker's lock .*study\.sqlite-workers"), Worker(store.path):
        pass


CLAIMS = """
import sys
from pathlib import Path
from jaxpaint.results.store import Store, Worker
path, cells, requests = Path(sys.argv[1]), *map(eval, sys.argv[2:])
with Store.open(path, create=False) as store, Worker(path) as worker:
    print(store.claim(worker, cells, requests), flush=True)
    sys.stdin.readline()
"""


def test_a_killed_workers_claims_are_taken_over(store: Store, tmp_path: Path) -> None:
    cells, requests = setting(store)
    process = python(CLAIMS, store.path, cells, requests[:7], stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{requests[:7]}\n"
    with Worker(store.path) as worker:
        assert store.claim(worker, cells, requests) == requests[7:]
        process.send_signal(signal.SIGSTOP)  # alive, however slow
        assert store.claim(worker, cells, requests) == requests[7:]
        process.kill()
        process.communicate()
        assert len(list((tmp_path / "study.sqlite-workers").iterdir())) == 2
        assert store.claim(worker, cells, requests) == requests
        assert len(list((tmp_path / "study.sqlite-workers").iterdir())) == 1
    assert not (tmp_path / "study.sqlite-workers").exists()


def test_the_lock_of_a_dead_worker_that_had_claimed_nothing_goes(store: Store, tmp_path: Path) -> None:
    code = "import os, signal, sys; from pathlib import Path; from jaxpaint.results.store import Worker\n"
    code += "Worker(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    python(code, store.path).wait()
    locks = tmp_path / "study.sqlite-workers"
    (left,) = locks.iterdir()
    with Worker(store.path) as worker, Worker(store.path) as other:
        assert left not in locks.iterdir()
        assert {file.stem for file in locks.iterdir()} == {worker.id, other.id}
    assert not locks.exists()


WORKS = """
import os, random, signal, sys, time
from pathlib import Path
from jaxpaint.results.store import Store, Worker
path, cells, requests, dies = Path(sys.argv[1]), *map(eval, sys.argv[2:])
random.seed(os.getpid())
computed = open(f"{path}-computed-{os.getpid()}", "w")
sys.stdin.readline()
with Store.open(path, create=False) as store, Worker(path) as worker:
    while store.missing(cells, requests).any():
        mine = store.claim(worker, cells, random.sample(requests, 12))
        missing = store.missing(cells, mine)
        rows = [
            (cell, request, -float(cell * request), True)
            for cell, row in zip(cells, missing)
            for request, miss in zip(mine, row)
            if miss
        ]
        half = len(rows) // 2
        for part in (rows[:half], rows[half:]):
            store.add_scores(part, dict.fromkeys({row[0] for row in part}, 1.0))
            print(*[f"{cell},{request}" for cell, request, *_ in part], sep="\\n", file=computed, flush=True)
            if dies and part and random.random() < 0.1:
                os.kill(os.getpid(), signal.SIGKILL)
        store.release(worker, mine)
"""


def test_workers_that_die_and_live_compute_each_score_once(store: Store, tmp_path: Path) -> None:
    """Scores are noted once they are written, so that a score that is noted twice was computed twice."""
    task = store.task(**TASKS["arc_easy"])
    requests = store.requests(task, [(document, 0, "x") for document in range(150)])
    cells = store.cells(store.model(**MODEL), task, store.plans([FULL, SKIP]))
    processes = [python(WORKS, store.path, cells, requests, dies, stdin=subprocess.PIPE) for dies in (1, 1, 0, 0)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert [process.returncode for process in processes[2:]] == [0, 0]
    assert not store.missing(cells, requests).any()
    for cell in cells:
        assert store.scores(cell, requests)[0].tolist() == [-cell * request for request in requests]
    noted = [line for file in tmp_path.glob("*-computed-*") for line in file.read_text().split()]
    assert sorted(noted) == sorted(f"{cell},{request}" for cell in cells for request in requests)
    assert store.connection.execute("SELECT count(DISTINCT worker) FROM claims").fetchone()[0] <= 2
    assert len(contents(store.path)["scores"]) == 300


def test_a_worker_s_name_leads_nowhere_else(store: Store, tmp_path: Path) -> None:
    """It comes out of the file, which may be anybody's."""
    cells, requests = setting(store)
    (tmp_path / "precious.lock").write_text("mine")
    for name in ("../precious", str(tmp_path / "precious"), "a\0b", ""):
        store.connection.execute(
            "INSERT OR REPLACE INTO claims SELECT model, ?, ? FROM cells LIMIT 1", (requests[0], name)
        )
        with Worker(store.path) as worker:
            assert store.claim(worker, cells, requests) == requests
            store.release(worker)
    assert (tmp_path / "precious.lock").read_text() == "mine"

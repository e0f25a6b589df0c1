"""A study of one model that lies over two processes: what they compute, ended in the middle, is what one does alone."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxpaint.base import interrupts
from jaxpaint.base.errors import UserError
from jaxpaint.engine import score as engine
from jaxpaint.studies.hosts import Hosts, leading
from jaxpaint.studies.run import run_study
from jaxpaint.studies.spec import StudySpec
from tests.helpers.side_by_side import Ended, ended, free_port, started
from tests.helpers.study_store import assert_equal_stores, rows, scores
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TEXTS = ["She put the kettle back where it was.", "The lantern is in the harbour.", "Where is the saddle?"]
WRITTEN = (
    "SELECT p.text AS plan, q.document, s.text FROM scores AS s JOIN cells AS c ON c.id = s.cell "
    "JOIN plans AS p ON p.id = c.plan JOIN requests AS q ON q.id = s.request WHERE s.text IS NOT NULL ORDER BY 1, 2"
)
ANALYSES = "SELECT p.text, a.name, a.value FROM analyses AS a JOIN plans AS p ON p.id = a.plan ORDER BY 1, 2"


@pytest.fixture
def spec(store: Path, tmp_path: Path) -> StudySpec:
    """Scores, texts, analyses with and without a fit, and a plan that is proposed from a measurement."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    return StudySpec(
        model=str(store),
        store=tmp_path / "alone.sqlite",
        tasks=tuple(make_task(tmp_path, name, documents=4) for name in ("tiny_choice", "tiny_write")),
        dtype="float32",
        batch_tokens=64,
        strategies=("drop-by-influence",),
        counts=(2,),
        calibration=texts,
        analyses=("similarity", "ridge_lens"),
        analysis_task=make_task(tmp_path, "tiny_word", documents=6),
        analysis_samples=4,
    )


def command(spec: StudySpec, *more: object) -> list[object]:
    given = ["--model", spec.model, "--dtype", spec.dtype, "--batch-tokens", 64, "--tasks", ",".join(spec.tasks)]
    given += ["--strategies", ",".join(spec.strategies), "--counts", 2, "--calibration", spec.calibration]
    given += ["--analyses", ",".join(spec.analyses), "--analysis-samples", 4, "--analysis-task", spec.analysis_task]
    return [sys.executable, "-c", "from jaxpaint.cli import script; script()", "study", *given, *more]


class Two:
    """Two processes with a folder each, in which the study has a store of the same name."""

    def __init__(self, folder: Path) -> None:
        self.folders = [folder / "first", folder / "second"]
        for each in self.folders:
            each.mkdir()
        self.store = self.folders[0] / "both.sqlite"

    def start(self, command: Sequence[object]) -> list[Any]:
        together = ["--store", "both.sqlite", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
        commands = [[*command, *together, "--process-id", process] for process in range(2)]
        return started(commands, 1, self.folders)

    def run(self, command: Sequence[object]) -> Ended:
        return ended(self.start(command))


def numbers(value: str) -> np.ndarray:
    return np.array(json.loads(value), dtype=float)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(spec: StudySpec, tmp_path: Path) -> None:
    assert run_study(spec, progress=False).analysed == 2
    two, split = Two(tmp_path), command(spec, "--tensor-parallel", 2)

    processes = two.start(split)
    end = time.monotonic() + 150
    while not (two.store.exists() and two.store.stat().st_size and _scores(two.store)):
        assert time.monotonic() < end
        assert processes[0].poll() is None, ended(processes)[0][2]
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGTERM)
    (first, _, err), (second, _, other) = ended(processes)
    assert (first, second) == (143, 2), err + other
    assert err.splitlines()[-1].startswith("jaxpaint: terminated; both.sqlite keeps what is done"), err
    assert other.splitlines()[-1] == "jaxpaint: error: the first process ended before all was done, and says why"
    assert 0 < _scores(two.store) < len(scores(spec.store))

    for new in ("2 plans analysed", "there was nothing to compute"):
        (first, out, err), (second, silent, other) = two.run(split)
        assert (first, second) == (0, 0), err + other
        assert new in out
        assert "both.sqlite" not in silent
        assert len(other.splitlines()) == 1  # that it waited for the first
        assert list(two.folders[1].iterdir()) == []
    assert_equal_stores(two.store, spec.store)
    for key, (value, _) in scores(spec.store).items():
        if value is not None:
            assert scores(two.store)[key][0] == pytest.approx(value, abs=1e-5)
    assert rows(two.store, WRITTEN) == rows(spec.store, WRITTEN)
    assert len(rows(spec.store, WRITTEN)) == 2 * 4
    found, expected = rows(two.store, ANALYSES), rows(spec.store, ANALYSES)
    assert [(row["text"], row["name"]) for row in found] == [(row["text"], row["name"]) for row in expected]
    for row, other_row in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(row["value"]), numbers(other_row["value"]), rtol=0, atol=1e-5)


def _scores(store: Path) -> int:
    try:
        return rows(store, "SELECT count(*) AS number FROM scores")[0]["number"]
    except Exception:  # it is being made
        return 0


@pytest.mark.slow
def test_a_mistake_is_told_once(spec: StudySpec, tmp_path: Path) -> None:
    two = Two(tmp_path)
    (two.folders[0] / "model").symlink_to(spec.model)  # the second has none of that name
    mistakes = {
        "process 1: no folder ./model": command(replace(spec, model="./model")),
        "no_such_task": command(replace(spec, tasks=("no_such_task",))),
    }
    for words, asked in mistakes.items():
        (first, _, err), (second, _, other) = two.run(asked)
        assert (first, second) == (2, 2), err + other
        assert len(err.splitlines()) == len(other.splitlines()) == 2, err + other
        assert words in err.splitlines()[1]
        assert other.splitlines()[1] == "jaxpaint: error: the first process ended before all was done, and says why"
    assert not two.store.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [(("--ray", "a:1"), "leave one of the two away"), (("--dry-run",), "leave --coordinator away")],
)
def test_options_that_do_not_go_together(refused, option: tuple[str, ...], words: str) -> None:
    where = "--coordinator", "a:1", "--num-processes", 2, "--process-id", 0
    refused("study", *option, *where, expected=(words,))


@pytest.mark.slow
def test_memory_that_ends(spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all of the processes, which here are one."""
    told: list[str] = []
    tasks = (make_task(tmp_path / "more", "tiny_choice", documents=30),)
    spec = replace(spec, tasks=tasks, strategies=(), analyses=(), batch_tokens=256)
    sweep = engine.sweep

    def within(model: Any, batches: Any, plans: Any) -> Any:
        if batches[0].tokens.size > 128:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return sweep(model, batches, plans)

    monkeypatch.setattr(engine, "sweep", within)
    with leading() as hosts:
        summary = run_study(spec, cluster=hosts, tell=told.append, progress=False)
    assert "going on with --batch-tokens 128" in told[0]
    assert (summary.finished, summary.cells, len(told)) == (1, 1, 1)


def _bug() -> None:
    raise KeyError("a bug")


def _mistake() -> None:
    raise UserError("a mistake")


def test_what_ends_a_job() -> None:
    hosts = Hosts()
    assert hosts.ask(_mistake, _mistake) == ("mistake", "a mistake")
    with pytest.raises(KeyError, match="a bug"):
        hosts.ask(_bug, _bug)


def test_a_signal_waits_for_the_job_at_hand() -> None:
    def signalled() -> str:
        signal.raise_signal(signal.SIGTERM)
        done.append("to its end")
        return "done"

    done: list[str] = []
    with interrupts.handled(), pytest.raises(interrupts.Terminated):
        Hosts().ask(_mistake, signalled)
    assert done == ["to its end"]


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "ONE_REQUEST", 0.0)

    def signalled() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with interrupts.handled(), pytest.raises(interrupts.Terminated):
        Hosts().ask(_mistake, signalled)

"""What nobody foresaw, and what the machine's limits make fail: a line each, and work that is done is kept."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpaint.base import budgets, limits, memory
from jaxpaint.base.machine import machine
from jaxpaint.cli import plan
from jaxpaint.models import checkpoint
from jaxpaint.studies import run as study_run
from jaxpaint.tasks import load
from tests.helpers.cli_fixtures import in_process, scoring

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

ROOT = Path(__file__).parents[2]
PLAN = ("plan", "0", "--layers", "1")


def failing(error: BaseException):
    def run(*arguments: object, **options: object) -> int:
        raise error

    return run


def test_a_bug_says_so_and_where_its_traceback_is(run, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plan, "run", failing(KeyError("hf_secret of\x1b[31m")))
    status, out, err = run(*PLAN)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    (file,) = (tmp_path / "cache" / "crashes").iterdir()
    assert line.startswith("jaxpaint: error: this is a bug in jaxpaint (KeyError: ")
    assert line.endswith(f"please report it with the file {file}")
    kept = file.read_text()
    assert "Traceback" in kept
    assert "in run\n" in kept
    assert not [text for text in (kept, line) if "hf_secret" in text or "\x1b" in line]
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_bug_where_nothing_can_be_kept(run, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(plan, "run", failing(KeyError("gone")))
    status, out, err = run(*PLAN)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("jaxpaint: error: this is a bug in jaxpaint (KeyError: 'gone'); JAXPAINT_TRACEBACK=1 shows")


def test_the_traceback_can_be_shown(run, monkeypatch) -> None:
    monkeypatch.setenv("JAXPAINT_TRACEBACK", "1")
    monkeypatch.setattr(plan, "run", failing(KeyError("gone")))
    status, _, err = run(*PLAN)
    assert status == 1
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("jaxpaint: error: this is a bug")


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), limits.MEMORY),
        (RuntimeError("std::bad_alloc"), limits.MEMORY),
        (ImportError("libx.so: failed to map segment from shared object"), limits.MEMORY),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), limits.MEMORY),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (RuntimeError("can't start new thread"), limits.THREADS),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), limits.THREADS),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a"), limits.FILES),
        (ValueError('RESOURCE_EXHAUSTED: Error opening "zarr" driver: Too many open files'), limits.FILES),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes."), "try a lower --batch-tokens"),
        (caused(ValueError("no tokenizer"), MemoryError()), limits.MEMORY),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "a/b: No space left on device"),
        (RuntimeError("I/O error: File too large (os error 27)"), "ulimit -f"),
        (ValueError("embedded null byte"), "null character"),
        (ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval"), "lm_eval is not installed"),
    ],
)
def test_what_the_machine_does_not_allow(refused, monkeypatch, error, words) -> None:
    monkeypatch.setattr(plan, "run", failing(error))
    refused(*PLAN, expected=(words,))


@pytest.mark.slow
def test_a_study_says_where_its_work_is(run, store, files, tmp_path, monkeypatch) -> None:
    place = tmp_path / "s.sqlite"
    arguments = ("study", *scoring(store, files)[1:], "--strategies", "skip", "--limit", "2", "--store", place)
    assert run(*arguments)[0] == 0
    monkeypatch.setattr(study_run, "run_study", failing(MemoryError()))
    status, _, err = run(*arguments)
    assert (status, err) == (
        2,
        f"jaxpaint: error: {limits.MEMORY}; {place} keeps what is done, and the same command continues\n",
    )


@pytest.mark.parametrize("error", [MemoryError(), KeyError("a bug")])
@pytest.mark.few(1)
def test_an_evaluation_keeps_the_tasks_that_are_finished(run, store, files, tmp_path, monkeypatch, error) -> None:
    evaluate = load.evaluate

    def second_fails(lm, tasks, **options):
        if "lambada_openai" in tasks["tasks"]:
            raise error
        return evaluate(lm, tasks, **options)

    monkeypatch.setattr(load, "evaluate", second_fails)
    data = [f"--data={name}={files / name}.jsonl" for name in ("arc_challenge", "lambada_openai")]
    tasks = ("--tasks", "arc_challenge,lambada_openai", *data)
    status, out, err = run("eval", "--model", store, *tasks, "--limit", "2", "--output", tmp_path / "o.json")
    assert status == 2
    assert "arc_challenge" in out
    words = limits.MEMORY if isinstance(error, MemoryError) else "this is a bug in jaxpaint"
    assert f"jaxpaint: error: lambada_openai: {words}" in err
    kept = json.loads((tmp_path / "o.json").read_text())
    assert set(kept["results"]) == {"arc_challenge"}
    assert set(kept["failed"]) == {"lambada_openai"}


def test_threads_that_cannot_be_started(refused, monkeypatch) -> None:
    def start(self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(limits.threading.Thread, "start", start)
    refused("logits", "--model", "painter-16", "--text", "A", expected=(limits.THREADS,))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
@pytest.mark.parametrize("limit", ["ulimit -v 1200000", "ulimit -n 24", "ulimit -n 31", "ulimit -n 36"])
def test_limits_that_native_code_aborts_on(folder, tmp_path, limit) -> None:
    command = [sys.executable, "-m", "jaxpaint.cli", "convert", str(folder), str(tmp_path / "store")]
    done = subprocess.run(
        ["bash", "-c", f'{limit}; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert done.stderr.startswith("jaxpaint: error: ")
    assert list(tmp_path.iterdir()) == []


def test_threads_and_finalizers_tell_nothing_on_their_own() -> None:
    code = """
import threading
from jaxpaint.cli import plan, script

class Finalized:
    def __del__(self):
        raise ValueError

def run(options):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    del Finalized.made
    return 0

Finalized.made = Finalized()
plan.run = run
script()
"""
    done = in_process(*PLAN, code=code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
@pytest.mark.slow
def test_a_model_that_memory_does_not_hold(tmp_path) -> None:
    allowed = limits.STARTING + limits.A_CORE * machine().cores + 1_000_000_000
    code = (
        "from jaxpaint.cli import script; from jaxpaint.models import checkpoint; "
        "checkpoint.BESIDE_PARAMETERS = 2 * 10**9; script()"  # as if the model were large
    )
    command = [sys.executable, "-c", code, "logits", "--model", "painter-16", "--text", "the"]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v {allowed // 1024}; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("jaxpaint: error: ")]
    assert "Traceback" not in done.stderr
    assert len(said) == 1
    assert re.search(r"in float32 needs 2\.\d\d GB of addresses, and of the .* GB that ulimit -v allows ", said[0])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much is left")
@pytest.mark.slow
def test_a_small_model_needs_little(run, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 250_000_000)
    monkeypatch.setattr(budgets, "memory_left", lambda: 250_000_000)
    status, out, _ = run("logits", "--model", "painter-16", "--text", "the")
    assert (status, len(out.splitlines()) > 1) == (0, True)


@pytest.mark.slow
def test_a_batch_that_memory_does_not_hold(refused, store, files, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "BESIDE_PARAMETERS", -(10**9))
    monkeypatch.setattr(checkpoint, "READING", -(10**9))
    monkeypatch.setattr(memory, "memory_left", lambda: 1)
    refused(*scoring(store, files), expected=("a batch of ", " tokens needs 0.00 GB", "--batch-tokens"))


def test_an_error_where_addresses_are_used_up(run, monkeypatch, tmp_path) -> None:
    """Native code tells of it by errors of any type."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "limits").write_text("Max address space  3200000000  unlimited  bytes\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(plan, "run", failing(SystemError("error return without exception set")))
    for peak, expected in (
        (3_000_000, (2, "the 3.2 GB of addresses that ulimit -v allows do")),
        (1_000_000, (1, "this")),
    ):
        (proc / "self" / "status").write_text(f"VmPeak: {peak} kB\n")
        status, _, err = run(*PLAN)
        assert (status, err.startswith(f"jaxpaint: error: {expected[1]}")) == (expected[0], True), err
        assert "SystemError" in err

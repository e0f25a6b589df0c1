"""Ctrl-C, SIGTERM and a terminal that hangs up: one line, the shell's status, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxpaint.base import interrupts, progress
from jaxpaint.cli import plan
from tests.helpers.cli_fixtures import in_process

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

ROOT = Path(__file__).parents[2]
ENDS = [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "hung up")]
PLAN = ("plan", "0", "--layers", "1")


@pytest.fixture(autouse=True)
def as_in_a_shell():
    """Whoever runs the tests may have had some of these ignored."""
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name, *_ in ENDS}
    for signum in before:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def raising(name: str, times: int = 1):
    def run(options) -> int:
        for _ in range(times):
            signal.raise_signal(getattr(signal, name))
        raise AssertionError("it went on")

    return run


@pytest.mark.parametrize(("name", "status", "word"), ENDS)
def test_a_line_and_the_status_of_shells(run, monkeypatch, name, status, word) -> None:
    before = signal.getsignal(getattr(signal, name))
    monkeypatch.setattr(plan, "run", raising(name))
    assert run(*PLAN) == (status, "", f"jaxpaint: {word}\n")
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_at_once_does_not_stop_the_tidying(run, monkeypatch, name) -> None:
    """`timeout` signals the process and its group; terminals and their shells both send SIGHUP."""
    tidied = []

    def twice(options) -> int:
        try:
            signal.raise_signal(getattr(signal, name))
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)
        raise AssertionError

    monkeypatch.setattr(plan, "run", twice)
    status, out, err = run(*PLAN)
    assert (status, out, err.count("\n")) == ({"SIGINT": 130, "SIGTERM": 143}[name], "", 1)
    assert tidied


def test_a_later_signal_ends_what_tidies_for_too_long(run, monkeypatch) -> None:
    monkeypatch.setattr(interrupts, "ONE_REQUEST", 0.01)

    def stuck(options) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(0.02)
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError

    monkeypatch.setattr(plan, "run", stuck)
    assert run(*PLAN) == (143, "", "jaxpaint: terminated\n")


def test_what_nohup_had_ignored_stays_ignored(run, monkeypatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def hung_up(options) -> int:
        signal.raise_signal(signal.SIGHUP)
        return 0

    monkeypatch.setattr(plan, "run", hung_up)
    assert run(*PLAN) == (0, "", "")


def test_what_the_interrupted_library_raises_is_no_bug(run, monkeypatch) -> None:
    def wrapped(options) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise RuntimeError("INTERNAL: a callback failed") from error
        return 0

    monkeypatch.setattr(plan, "run", wrapped)
    assert run(*PLAN) == (143, "", "jaxpaint: terminated\n")


def test_sigterm_in_a_finalizer_is_not_lost(run, monkeypatch) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def run_plan(options) -> int:
        found = Finalized()
        del found
        for _ in range(600):  # the signal comes again from a thread, which does not end a sleep
            time.sleep(0.05)
        return 0

    monkeypatch.setattr(plan, "run", run_plan)
    assert run(*PLAN) == (143, "", "jaxpaint: terminated\n")


def test_a_forked_process_ends_as_it_would_without() -> None:
    code = """
import os, signal
from jaxpaint.cli import plan, script

def run(options):
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

plan.run = run
signal.signal(signal.SIGTERM, signal.SIG_DFL)
script()
"""
    done = in_process(*PLAN, code=code)
    assert (done.returncode, done.stderr) == (signal.SIGTERM, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_conversion_leaves_nothing(run, folder, tmp_path, monkeypatch, name) -> None:
    @contextmanager
    def bar():
        yield lambda what, done, total: signal.raise_signal(getattr(signal, name)) if done else None

    monkeypatch.setattr(progress, "byte_bar", bar)
    status, out, err = run("convert", folder, tmp_path / "store")
    assert (status, out) == ({"SIGINT": 130, "SIGTERM": 143}[name], "")
    assert [line for line in err.splitlines() if line.startswith("jaxpaint")] == err.splitlines()[-1:]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_modules_load() -> None:
    """Wherever the import of a module of ours, or of what it needs, is stopped."""
    code = """
import signal, sys

class Interrupting:
    def find_spec(name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

module = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting)
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxpaint.cli import script
script()
"""
    for module in ("jaxpaint.base.interrupts", "jaxpaint.cli.parsing", "argparse", "jaxpaint.plans.plan"):
        done = in_process(module, *PLAN, code=code)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "jaxpaint: interrupted\n"), module


def test_the_command_s_entry_loads_next_to_nothing() -> None:
    """What is loaded before signals are minded is the time in which Ctrl-C shows a traceback."""
    code = "import os, sys; before = set(sys.modules); import jaxpaint.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *("__future__", "jaxpaint", "jaxpaint.base", "jaxpaint.base.errors", "jaxpaint.cli"),
    ]

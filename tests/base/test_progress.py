"""A study's progress: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest

from jaxpaint.base import progress
from jaxpaint.base.progress import bar
from tests.helpers.cli_fixtures import Terminal


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in seconds, as the one item of a list."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_a_minute(capsys, clock) -> None:
    with bar("study") as start:
        advance = start(40_000)
        for second in range(150):
            clock[0] += 1
            advance(100, "best on arc_easy: reverse start=3, acc 0.4" if second > 100 else "")
        middle = capsys.readouterr().err
    assert middle.splitlines() == [
        "study: 15.0%, 6.00k of 40.0k tokens, 100 tokens/s, 01:00 gone, 05:40 left",
        "study: 30.0%, 12.0k of 40.0k tokens, 100 tokens/s, 02:00 gone, 04:40 left, best on arc_easy: reverse start=3, "
        "acc 0.4",
    ]
    (last,) = capsys.readouterr().err.splitlines()
    assert last.startswith("study: 37.5%, 15.0k of 40.0k tokens, 100 tokens/s, 02:30 gone, 04:10 left, best on")


def test_the_end_is_said_once(capsys, clock) -> None:
    with bar("study") as start:
        advance = start(100)
        clock[0] += 90
        advance(100, "")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("study: 100.0%, 100 of 100 tokens")


def test_the_next_bar_ends_the_one_before(capsys, clock) -> None:
    with bar("study") as start:
        advance = start(100)
        clock[0] += 61
        advance(90, "")
        clock[0] += 1
        advance(10, "")
        start(50)
        lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["study: 90.0%", "study: 100.0%"]


def test_short_work_says_nothing(capsys, clock) -> None:
    with bar("study") as start:
        advance = start(10)
        clock[0] += 59
        advance(10, "")
    with bar("study") as start:
        start(0)
    with bar("study"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with bar("study") as start:
        advance = start(2000)
        assert "compiling" in terminal.getvalue()
        advance(1000, "best on arc_easy: skip start=3")
    lines = re.split(r"[\r\n]", terminal.getvalue())
    (last, *_) = [line for line in reversed(lines) if "study" in line]
    assert last.startswith("study:  50%")
    assert "1.00k/2.00k" in last
    assert last.rstrip().endswith("tokens/s]")
    assert any(line.strip().startswith("best on arc_easy: skip start=3") for line in lines), "on a line of its own"


def test_time_left_is_that_of_all_phases(monkeypatch, capsys, clock) -> None:
    """At 100 tokens a second 3,400 are left of this phase, and what takes as long as 6,000 after it."""
    with bar("study") as start:
        advance = start(40_00, "scoring (1 of 2)", 6000.0)
        clock[0] += 6
        advance(600)
        clock[0] += 60
        advance(0)
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "study, scoring (1 of 2): 15.0%, 600 of 4.00k tokens, 9.09 tokens/s, 01:06 gone, 17:14 left"
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        advance = start(4000, "scoring (1 of 2)", 36_000.0)
        for _ in range(2):
            time.sleep(0.25)
            advance(2000)
    told = re.findall(r"\[00:00<([0-9:]+),", terminal.getvalue())
    assert "study, scoring (1 of 2): 100%" in terminal.getvalue()
    assert told[-1] in ("00:04", "00:05", "00:06", "00:07"), "nine times what it took"


def test_lines_stand_above_the_bar(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("study") as start:
        start(10)(5, "")
        progress.say("the device is out of memory")
    line, _, after = terminal.getvalue().partition("the device is out of memory\n")
    assert "study:" in line
    assert "study:" in after


@pytest.mark.parametrize(("wanted", "in_notebook", "on_terminal", "shown"), [
    (None, False, False, False), (None, False, True, True), (None, True, False, True),
    (True, False, True, True), (False, True, True, False), (False, False, True, False),
])  # fmt: skip
def test_a_bar_is_shown_where_it_is_wanted_and_by_default_where_a_person_looks(
    wanted: bool | None, in_notebook: bool, on_terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal() if on_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    config = {"IPKernelApp": {}} if in_notebook else {}
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(config=config))
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    with progress.asked_bar(wanted, "study") as start:
        start(10)(5, "half of it")
        start(10)(5)
    assert ("study" in terminal.getvalue()) == shown

"""--quiet, --verbose and --log-file: what becomes of what is told on the way."""

from __future__ import annotations

import logging
import re

import pytest

from jaxpaint.base import progress
from jaxpaint.cli import plan

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
COMMAND = ("plan", "0-3")


@pytest.fixture(autouse=True)
def talkative(monkeypatch, nothing_of_the_users):
    """A command that tells something, moves a bar, and has a library speak."""
    usual = plan.run
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)

    def run(options):
        progress.say("half way")
        with progress.bar("painting", "layers") as start:
            start(4)(3)
        logging.getLogger("some.library").info("a detail")
        logging.getLogger("some.library").warning("a warning")
        return usual(options)

    monkeypatch.setattr(plan, "run", run)


def test_what_is_told_without_them(run) -> None:
    status, out, err = run(*COMMAND)
    assert (status, err.splitlines()[0]) == (0, "half way")
    assert "painting: 75.0%, 3.00 of 4.00 layers" in err
    assert "a detail" not in err
    assert "half way" not in out


def test_quiet_leaves_the_answer_and_errors(run) -> None:
    answer = run(*COMMAND)[1]
    assert run(*COMMAND, "--quiet") == run(*COMMAND, "-q") == (0, answer, "")
    assert run(*COMMAND, "--layers", 2, "-q")[2].startswith("jaxpaint: error: ")
    assert "half way" in run(*COMMAND)[2], "the next command tells again"


def test_verbose_has_what_libraries_say(run) -> None:
    err = run(*COMMAND, "-v")[2]
    assert "some.library: a detail\n" in err
    assert "some.library: a warning\n" in err
    assert logging.getLogger().level == logging.WARNING, "as it was"


def test_a_log_file_is_added_to(run, tmp_path) -> None:
    file = tmp_path / "log.txt"
    assert run(*COMMAND, "--quiet", "--log-file", file)[2] == ""
    assert run(*COMMAND, "--layers", 2, "--log-file", file)[0] == 2
    lines = file.read_text().splitlines()
    told = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "", line) for line in lines]
    assert all(new != old for new, old in zip(told, lines, strict=True))
    assert told.count("INFO jaxpaint: half way") == 2
    assert sum(line.startswith("INFO jaxpaint: painting: 75.0%") for line in told) == 2
    assert told.count("WARNING some.library: a warning") == 2
    assert told[-1].startswith("ERROR jaxpaint: error: ")
    assert "a detail" not in file.read_text()
    before = file.read_text()
    run(*COMMAND)
    assert file.read_text() == before


def test_with_json_all_of_it_is_apart_from_the_document(run, capfd) -> None:
    status, out, err = run(*COMMAND, "--json")
    assert (status, out.count("\n"), out[0]) == (0, 1, "{")
    assert "half way" in err


def test_mistakes(refused, tmp_path) -> None:
    refused(*COMMAND, "--log-file", tmp_path, expected=("--log-file", "is a folder"))
    refused(*COMMAND, "--log-file", tmp_path / "no" / "log", expected=("--log-file", "does not exist"))
    refused(*COMMAND, "-q", "-v", expected=("not allowed with",))

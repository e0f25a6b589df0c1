"""Streams that are closed, full, or not UTF-8, arguments that are not text, and what a terminal would obey."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpaint.base import progress
from jaxpaint.cli import main, plan
from jaxpaint.results.store import PlanRow, Store
from tests.helpers.cli_fixtures import Terminal
from tests.helpers.tiny_results import NUM_LAYERS, fill, make_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

ROOT = Path(__file__).parents[2]
PLAN = ("plan", "0-1 {2 3}*3 4", "--layers", "9")
HOSTILE = "a\x1b]0;owned\x07\x9b2J\rb\u202e"


def shell(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of bash in which `jaxpaint` stands for the command, with `arguments` as "$@"."""
    script = f"jaxpaint() {{ '{sys.executable}' -m jaxpaint.cli \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )


@pytest.mark.parametrize("redirection", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(redirection) -> None:
    done = shell(f'jaxpaint "$@" {redirection}', *PLAN)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in redirection.replace("2>&-", ""))


def test_a_mistake_that_nobody_can_read() -> None:
    done = shell('jaxpaint "$@" 2>&-', "plan", "x", "--layers", "9")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_file_is_not_opened_as_a_closed_stream(tmp_path) -> None:
    """What is opened first would be descriptor 2, and get every message."""
    make_store(tmp_path / "s.sqlite")
    done = shell(
        'jaxpaint results "$1" --format json --output "$2" >&- 2>&- <&-', tmp_path / "s.sqlite", tmp_path / "o.json"
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "o.json").read_text())["models"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("--help",), PLAN])
def test_output_that_is_full(arguments) -> None:
    done = shell('jaxpaint "$@" >/dev/full', *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"jaxpaint: error: standard output: {os.strerror(errno.ENOSPC)}; its last line was: ")


class Broken(io.StringIO):
    """A pipe whose reader has gone, or a disk that is full."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.slow
def test_the_report_is_written_whether_or_not_anyone_listens(tmp_path, store, files, monkeypatch, capsys) -> None:
    arguments = ("study", "--model", store, "--tasks", "arc_challenge", "--strategies", "skip", "--limit", "2")
    data = ("--data", f"arc_challenge={files / 'arc_challenge.jsonl'}", "--dtype", "float32")
    places = ("--store", tmp_path / "s.sqlite", "--report", tmp_path / "report")
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    assert main([str(word) for word in (*arguments, *data, *places)]) == 2
    assert (tmp_path / "report" / "report.html").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxpaint")]
    assert line.endswith(f"its last line was: report: {tmp_path / 'report' / 'report.html'}")


def test_the_work_goes_on_where_messages_cannot_be_written(monkeypatch, capsys) -> None:
    def work(options) -> int:
        progress.say("half of it")
        print("more", file=sys.stderr, flush=True)
        print("done")
        return 0

    monkeypatch.setattr(plan, "run", work)
    monkeypatch.setattr(sys, "stderr", Broken(errno.EPIPE))
    assert main(list(PLAN)) == 0
    assert capsys.readouterr().out == "done\n"


def output_as(encoding: str, monkeypatch, *arguments: object) -> tuple[int, str]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    status = main([str(word) for word in arguments])
    stream.flush()
    return status, raw.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_drawings_in_every_encoding(encoding, monkeypatch) -> None:
    status, text = output_as(encoding, monkeypatch, *PLAN)
    assert status == 0
    assert "3 times" in text
    assert ("╭" in text) == (encoding == "utf-8")
    assert ("+--" in text) == (encoding != "utf-8")
    assert "\\u" not in text


def test_what_is_for_programs_is_utf_8_in_every_locale(tmp_path, monkeypatch) -> None:
    with Store.open(tmp_path / "s.sqlite", create=True) as opened:
        fill(opened, plans=[PlanRow("0", 1, 1, "custom", NUM_LAYERS, "été ×3")])
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["results", str(tmp_path / "s.sqlite"), "--format", "json"]) == 0
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode("utf-8"))["variants"][0]["label"] == "été ×3"


def test_a_locale_without_utf_8() -> None:
    done = shell('jaxpaint "$@"', *PLAN, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 times" in done.stdout


@pytest.mark.parametrize("where", ["results", "report", "convert", "plan", "generate", "logits", "study"])
def test_arguments_that_are_not_text(refused, where) -> None:
    word = os.fsdecode(b"caf\xe9")
    arguments = {
        "results": (word,),
        "report": ("s.sqlite", "-o", word),
        "convert": (word, "out"),
        "plan": (word, "--layers", "3"),
        "generate": ("--model", "painter-16", "--prompt", word),
        "logits": ("--model", "painter-16", "--text", word),
        "study": ("--model", "painter-16", "--store", word),
    }[where]
    refused(where, *arguments, expected=(r"caf\xe9 is not UTF-8",))


def test_in_a_folder_whose_name_is_not_text_work_is_done_or_refused(refused, folder, tmp_path, monkeypatch) -> None:
    here = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        here.mkdir()
    except OSError:
        pytest.skip("the file system's names are text")
    monkeypatch.chdir(here)
    make_store(Path("s.sqlite"))
    assert main(["report", "s.sqlite", "-o", "report"]) == 0
    assert Path("report", "report.html").is_file()
    refused("convert", folder, "store", expected=("is not UTF-8",))
    assert sorted(path.name for path in here.iterdir()) == ["report", "s.sqlite"]


@pytest.mark.parametrize(("given", "words"), [(b"a\xff", "not text in utf-8"), (None, "closed")])
def test_a_prompt_from_standard_input_that_is_none(refused, monkeypatch, given, words) -> None:
    stream = None if given is None else io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    refused("generate", "--model", "painter-16", "--prompt", "-", expected=("--prompt - reads standard input", words))


def test_a_terminal_is_sent_nothing_to_obey(tmp_path, monkeypatch, capsys) -> None:
    with Store.open(tmp_path / "s.sqlite", create=True) as opened:
        fill(opened, plans=[PlanRow("0", 1, 1, "custom", NUM_LAYERS, HOSTILE)])
        opened.connection.execute("UPDATE models SET source = ?", (HOSTILE,))
        opened.connection.execute("UPDATE tasks SET name = ?", (HOSTILE,))
        opened.connection.execute("DELETE FROM checksums")  # as though written so
    for format in ("table", "csv"):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["results", str(tmp_path / "s.sqlite"), "--format", format]) == 0
        shown = terminal.getvalue()
        assert not set(shown) & set("\x1b\x07\x9b\r\u202e")
        assert r"a\x1b]0;owned\x07\x9b2J\rb\u202e"[:38] in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("results", HOSTILE),
        ("plan", HOSTILE, "--layers", "3"),
        (HOSTILE,),
        ("results", "s.sqlite", f"--{HOSTILE}"),
        ("logits", "--model", f"./{HOSTILE}\njaxpaint: all is well", "--text", "A"),
        ("eval", "--model", "painter-16", "--tasks", HOSTILE),
        ("eval", "--model", "painter-16", "--tasks", "t", "--data", f"t={HOSTILE}.jsonl"),
        ("convert", HOSTILE, "out"),
        ("study", f"{HOSTILE}.toml"),
    ],
)
def test_messages_are_sent_nothing_to_obey_even_into_a_log(run, tmp_path, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert not set(err) & set("\x1b\x07\x9b\r\u202e")
    assert len(err.splitlines()) == (3 if arguments[0] == "plan" else 1)


def test_bars_are_drawn(monkeypatch) -> None:
    """They go back to the start of their line, and up, which no name may."""

    def work(options) -> int:
        with progress.bar(f"study {HOSTILE}") as start:
            start(10)(5, "half")
            progress.say(f"above {HOSTILE}")
        return 0

    monkeypatch.setattr(plan, "run", work)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(list(PLAN)) == 0
    shown = terminal.getvalue()
    assert "\rstudy a" in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown
    assert "\rb" not in shown
    assert r"\x1b]0;owned" in shown

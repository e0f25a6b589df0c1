"""The command line as a whole: help, and one clear line for mistakes that every command can meet."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxpaint
from jaxpaint.cli import parsing
from jaxpaint.cli.parsing import COMMANDS, parser
from tests.helpers.cli_fixtures import in_process, scoring
from tests.helpers.tiny_folder import NUM_LAYERS

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
MANY = ("--seeds", "--starts", "--loops", "--counts")


def test_it_comes_at_once() -> None:
    """The best of a few, because other work may be running on the machine."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = in_process("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert done.stderr == ""
        assert [name for name in COMMANDS if not re.search(rf"^    {name}\s", done.stdout, re.MULTILINE)] == []
    assert min(seconds) < 1


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_it_fits_the_screen_and_teaches(name, run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(*name.split(), "--help")
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert f"jaxpaint {name}" in out.split("\n\n", 2)[2]  # an example


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_what_each_says_of_itself(name) -> None:
    assert parsing.command(name).__doc__.strip().splitlines()[0] == COMMANDS[name]


def test_help_reads_no_command() -> None:
    code = "import sys; from jaxpaint.cli.parsing import parser; parser().format_help(); print(*sys.modules)"
    loaded = set(in_process(code=code).stdout.split())
    assert not {f"jaxpaint.cli.{name}" for name in COMMANDS} & loaded
    assert "numpy" not in loaded


def test_options_say_what_they_are_without() -> None:
    """Of every value that may be left away; and no letter stands for it alone but N of numbers."""
    subparsers = parser(filled=True)._subparsers._group_actions[0].choices
    for name, subparser in subparsers.items():
        for action in subparser._actions:
            if action.option_strings and action.nargs != 0:
                assert action.required or "(default" in action.help, (name, action.option_strings)
            metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            assert not [each for each in metavars if each and len(each) == 1 and each != "N"], (name, action.metavar)


def test_one_word_means_one_thing() -> None:
    """What is written to has one letter everywhere, and what many plans are made of is given in one way."""
    subparsers = parser(filled=True)._subparsers._group_actions[0].choices
    for name, subparser in subparsers.items():
        options = subparser._option_string_actions
        assert ("-o" in options) == ("--output" in options), name
        assert {options[each].metavar for each in MANY if each in options} <= {"NUMBERS"}, name


def test_nothing_at_all_is_help(run) -> None:
    assert run() == run("--help")


def test_version(run) -> None:
    assert run("--version") == (0, f"jaxpaint {jaxpaint.__version__}\n", "")


@pytest.mark.parametrize("model", ["no/such/folder", "nothing", "/no/such/folder"])
def test_unknown_folder(refused, files, tmp_path, model, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        scoring(model, files),
        ("logits", "--model", model, "--text", "A"),
        ("convert", model, "store"),
        ("export", model, "short", "--plan", "0"),
    ):
        refused(*command, expected=(f"no folder {model}",))
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path, files) -> None:
    for command in (scoring("owner/name", files), ("convert", "owner/name", str(tmp_path / "store"))):
        done = in_process(*command, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("jaxpaint: error: no folder owner/name here")
        assert "to work offline" in line
        assert "HF_HUB_OFFLINE=1" in line


@pytest.mark.parametrize("command", ["eval", "logits", "export", "plan"])
@pytest.mark.parametrize("plan", ["0-3 {1", "", "0 x 4", "{}"])
def test_a_plan_that_does_not_parse(run, store, tmp_path, command, plan) -> None:
    where = tmp_path / "never made"
    arguments = {
        # Told before the model is looked for.
        "eval": ("--model", "no/such/folder", "--tasks", "arc_challenge", "--plan", plan),
        "logits": ("--model", "no/such/folder", "--text", "A", "--plan", plan),
        "export": (store, where, "--plan", plan),
        "plan": (plan, "--layers", 5),
    }[command]
    status, out, err = run(command, *arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    first, *pointing = err.splitlines()
    assert first.startswith("jaxpaint: error: plan, column ")
    assert "expected" in first
    if plan:
        text, caret = pointing
        assert plan in text
        assert caret.strip() == "^"
        assert caret.index("^") - text.index(plan) == int(first.split("column ")[1].split(":")[0]) - 1
    assert not where.exists()


@pytest.mark.parametrize("plan", ["0-5", "0 {1 17}", "99"])
def test_a_layer_the_model_lacks(refused, store, files, tmp_path, plan) -> None:
    count = f"the model has {NUM_LAYERS} layers"
    layer = plan.strip("}").replace("-", " ").split()[-1]
    for command in (scoring(store, files), ("logits", "--model", store, "--text", "A")):
        refused(*command, "--plan", plan, expected=(f"layer {layer}", count))
    refused("export", store, tmp_path / "short", "--plan", plan, expected=(f"layer {layer}", count))


def test_arguments_that_are_missing(refused) -> None:
    refused("paint", expected=("'paint'", "convert", "--help"))
    refused("eval", "--tasks", "arc_challenge", expected=("--model",))
    refused("eval", "--model", "m", expected=("--tasks",))
    refused("convert", "only-one", expected=("DST",))
    refused("export", "store", "short", expected=("--plan",))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evla --model x", "invalid choice: 'evla': did you mean eval?"),
        ("eval --task arc_easy", "unrecognized arguments: --task: did you mean --tasks?"),
        ("eval --system x", "unrecognized arguments: --system: did you mean --system-instruction?"),
        ("eval --plna 0-3", "unrecognized arguments: --plna: did you mean --plan?"),
        ("eval --model x --tasks y --kv exat", "invalid choice: 'exat': did you mean exact?"),
        ("search --buget=cost=3", "unrecognized arguments: --buget: did you mean --budget?"),
        ("eval --model x --tasks y --nonsense", "unrecognized arguments: --nonsense (see"),
        (
            "eval --model x --tasks y --num_fewshott 3",
            "unrecognized arguments: --num-fewshott: did you mean --num-fewshot?",
        ),
    ],
)
def test_what_was_meant(run, words: str, told: str) -> None:
    status, out, err = run(*words.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_what_follows_two_hyphens_is_no_option(run) -> None:
    assert "unrecognized" not in run("plan", "--layers", "4", "--", "--plna")[2]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough(unbuffered) -> None:
    code = "import sys; from jaxpaint.cli import script; sys.argv[1:] = ['plan', '0-31', '--layers', '32']; script()"
    read, write = os.pipe()
    os.close(read)
    with contextlib.closing(os.fdopen(write, "w")) as closed:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_end_after_ctrl_c_is_not_python_s_teardown() -> None:
    """It frees what XLA's threads still run. Here a teardown that crashes whenever it comes."""
    code = """
import atexit, os
from jaxpaint import cli
from jaxpaint.cli import plan

def run(options):
    print("done so far")
    raise KeyboardInterrupt

plan.run = run
atexit.register(os.abort)
cli.script()
"""
    done = in_process("plan", "0", "--layers", "1", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "done so far\n", "jaxpaint: interrupted\n")


def test_ctrl_c_in_a_finalizer_is_not_lost() -> None:
    code = """
import signal, sys, time
from jaxpaint import cli
from jaxpaint.cli import plan

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def run(options):
    found = Finalized()
    del found
    for _ in range(600):  # the signal comes again from a thread, which does not end a sleep
        time.sleep(0.05)

plan.run = run
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main(["plan", "0", "--layers", "1"]))
"""
    done = in_process(code=code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "jaxpaint: interrupted\n")

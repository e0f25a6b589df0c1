"""Numbers that nothing could run with are refused by every command, before anything is loaded or made."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from jaxpaint.engine import source
from jaxpaint.models import checkpoint
from jaxpaint.studies import glue

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("eval --batch-tokens 1000000000000000000", "--batch-tokens: 1000000000000000000 is out of range"),
        ("eval --limit nan", "--limit: nan is not a finite number"),
        ("eval --num-fewshot -99999999999", "--num-fewshot: -99999999999 is out of range"),
        ("generate --max-new-tokens 1000000000000", "--max-new-tokens: 1000000000000 is out of range"),
        ("generate --temperature inf", "--temperature: inf is not a finite number"),
        ("generate --top-p none", "--top-p: 'none' is not a number"),
        ("logits --top 3.5", "--top: '3.5' is not a whole number"),
        ("finetune --learning-rate nan", "--learning-rate: nan is not a finite number"),
        (f"logits --top {'9' * 5000}", "--top: 999"),
        ("generate --model m --prompt a --max-new-tokens -5", "--max-new-tokens is -5; expected 1 or more"),
        ("eval --model painter-16 --tasks painter_facts --limit 0", "--limit is 0; expected a number"),
        (
            "eval --model painter-16 --tasks painter_facts --num-fewshot 999999",
            "num_fewshot is 999999, and painter_facts",
        ),
        ("plan --strategy parallel --start 1 --layers 2000000000", "a model has at most 10000 layers"),
        ("plan --strategy random --start 1 --seed -1 --layers 9", "seed -1 is out of range: 0 to 2^32 - 1"),
        ("finetune --epochs 1e3", "--epochs: '1e3' is not a whole number"),
        ("plan 0 --layers 99999999999", "--layers: 99999999999 is out of range"),
        ("finetune --store s --epochs 2000000000", "--epochs is 2000000000; expected at most 10000"),
        ("finetune --store s --batch-size 2000000000", "--batch-size is 2000000000; expected at most 65536"),
        ("glue --model m --store s --epochs 2000000000", "--epochs is 2000000000; expected at most 10000"),
        ("glue --model m --store s --batch-size 2000000000", "--batch-size is 2000000000; expected at most 65536"),
    ],
)
def test_of_options(refused, arguments, expected) -> None:
    refused(*arguments.split(), expected=(expected,))


COSTLY = "the plan applies layers more than 1000000 times in all"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--strategies looped-parallel --loops 1000000000", "--loops is '1000000000'; expected numbers up to 1000000"),
        ("--strategies looped-parallel --loops 500000", COSTLY),
        ("--strategies skip --starts 77", "start 77 is out of range"),
    ],
)
@pytest.mark.parametrize("command", ["study --tasks arc_easy", "glue --tasks rte"])
def test_of_plans(refused, store, tmp_path, monkeypatch, command, options, expected) -> None:
    for module in (source, glue):
        monkeypatch.setattr(module, "load", lambda *arguments, **options: pytest.fail("was loaded"))
    made = tmp_path / "made.sqlite"
    refused(*command.split(), "--model", store, "--store", made, *options.split(), expected=(expected,))
    assert not made.exists()


@pytest.fixture
def nothing_is_read(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "restore", lambda *arguments, **options: pytest.fail("weights were read"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "generate --prompt A --truncate-left --max-new-tokens 2000000000",
            "--max-new-tokens is 2000000000, and the model has 64 positions for prompt and answer; expected at most 63",
        ),
        (
            "eval --tasks painter_facts --max-length 2000000000",
            "--max-length is 2000000000; expected 1 to the model's 64 positions",
        ),
        (
            "study --tasks painter_facts --store STORE --max-length 2000000000",
            "--max-length is 2000000000; expected 1 to the model's 64 positions",
        ),
    ],
)
def test_of_lengths_beyond_the_model(refused, store, tmp_path, nothing_is_read, command, expected) -> None:
    words = [str(tmp_path / "made.sqlite") if word == "STORE" else word for word in command.split()]
    refused(*words, "--model", store, expected=(expected,))
    assert not list(tmp_path.iterdir())


def test_of_a_plan_in_settings(refused, store, tmp_path) -> None:
    file = tmp_path / "settings.toml"
    plans = '["((0-3)*1000)*1000"]'
    file.write_text(f'model = "{store}"\nstore = "{tmp_path}/made.sqlite"\ntasks = ["arc_easy"]\nplans = {plans}\n')
    refused("study", file, expected=(COSTLY,))
    assert list(tmp_path.iterdir()) == [file]


def test_of_more_texts_to_analyse_than_there_are(run, store, files, tmp_path) -> None:
    made, data = tmp_path / "made.sqlite", f"lambada_openai={files / 'lambada_openai.jsonl'}"
    analysis = ("--analyses", "variance", "--analysis-samples", 2_000_000_000, "--plans-file", tmp_path / "plans")
    (tmp_path / "plans").write_text("0-4")
    assert run("study", "--model", store, "--store", made, "--data", data, *analysis)[0] == 0
    with closing(sqlite3.connect(made)) as connection:
        rows = connection.execute("SELECT name, settings FROM analyses ORDER BY name").fetchall()
    samples = {name: json.loads(settings)["samples"] for name, settings in rows}
    assert samples == {"variance": 8, "variance_stderr": 8}


def test_of_a_task_to_analyse_that_there_is_not(refused, store, tmp_path, nothing_is_read) -> None:
    analysis = ("--analyses", "variance", "--analysis-task", "painter_place")
    refused(
        *("study", "--model", store, "--store", tmp_path / "made.sqlite", "--tasks", "painter_facts", *analysis),
        expected=("unknown task 'painter_place'",),
    )
    assert not list(tmp_path.iterdir())

"""The JSON schema of settings files: takes what a study takes, and knows every setting that it has."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from jaxpaint.base.errors import UserError
from jaxpaint.cli.parsing import parser
from jaxpaint.studies.schema import schema_of_files
from jaxpaint.studies.settings import COMMAND_LINE_ONLY, OF_FILES, PRESETS, checked_names
from jaxpaint.studies.spec import StudySpec
from jaxpaint.studies.written_settings import settings_text

ROOT = Path(__file__).parents[2]
SCHEMA = schema_of_files()
VALIDATOR = Draft202012Validator(SCHEMA)


def told() -> list[str]:
    """Every settings file that pages, examples and helps show."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "examples").glob("*.py")]
    blocks = [block for page in pages for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)]
    help = (ROOT / "jaxpaint" / "cli" / "study.py").read_text()
    return [*blocks, "\n".join(re.findall(r"^  ([a-z-]+ = .*)", help, re.MULTILINE))]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_it_takes_every_file_that_is_shown() -> None:
    files = [tomllib.loads(text) for text in told()]
    assert any("strategies" in settings for settings in files)
    for settings in (*files, *PRESETS.values()):
        assert [error.message for error in VALIDATOR.iter_errors(dict(settings))] == []


def test_it_takes_every_example_and_default() -> None:
    """Of a written file all lines that set something, those behind a # too."""
    lines = [line.removeprefix("# ") for line in settings_text({}, ".toml").splitlines()]
    settings = tomllib.loads("\n".join(line for line in lines if line.partition(" = ")[0] in OF_FILES))
    assert settings.keys() == OF_FILES.keys()
    for name, value in settings.items():
        assert [error.message for error in VALIDATOR.iter_errors({name: value})] == []
    for name, about in SCHEMA["properties"].items():
        if "default" in about:
            assert VALIDATOR.is_valid({name: about["default"]}), name


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("dtype", "bfloat16", True),
        ("dtype", "float8", False),
        ("limit", 0.5, True),
        ("limit", 100, True),
        ("limit", 1.5, False),
        ("limit", 0, False),
        ("limit", True, False),
        ("num-fewshot", 0, True),
        ("num-fewshot", -1, False),
        ("tensor-parallel", 0, False),
        ("offload", "yes", False),
        ("tasks", "arc_easy, hellaswag", True),
        ("tasks", ["arc_easy"], True),
        ("tasks", 3, False),
        ("strategies", "skip, random,", True),
        ("strategies", "skip,randm", False),
        ("strategies", ["skpi"], False),
        ("analyses", ["similarity", "cka"], True),
        ("analyses", "similarities", False),
        ("starts", "/3", True),
        ("starts", "0-14/2, 20", True),
        ("starts", "0..14", False),
        ("starts", [0, 4], True),
        ("starts", [-1], False),
        ("seeds", 3, True),
        ("seeds", 0, False),
        ("seeds", "3-7", True),
        ("loops", 0, False),
        ("loops", "1-28", True),
        ("times", [2, 3], True),
        ("plans", "0-8", False),
        ("plans", ["0-8"], True),
        ("data", {"arc_easy": "a.jsonl"}, True),
        ("data", ["arc_easy=a.jsonl"], True),
        ("data", "arc_easy=a.jsonl", False),
        ("shard", "1/8", True),
        ("shard", "1 of 8", False),
        ("apply-chat-template", "tool_use", True),
        ("apply-chat-template", 1, False),
        ("fewshot-as-multiturn", "no", True),
        ("fewshot-as-multiturn", "maybe", False),
        ("gen-kwargs", {"max_gen_toks": 300}, True),
        ("gen-kwargs", 300, False),
        ("samples", {"arc_easy": [0, 4]}, True),
        ("samples", {"arc_easy": [-1]}, False),
        ("seed", 7, True),
        ("seed", [1, 2, 3, 4], True),
        ("seed", -1, False),
        ("preset", "quick", True),
        ("preset", "quik", False),
        ("store", "a.sqlite", True),
        ("store", " ", False),
    ],
)
def test_it_takes_what_a_study_takes(name, value, taken) -> None:
    """The editor and the command say the same of a value."""
    assert VALIDATOR.is_valid({name: value}) == taken
    try:
        checked_names({name: value})
    except UserError:
        assert not taken
    else:
        assert taken


def test_mistyped_keys_and_two_kinds_of_models_are_refused() -> None:
    assert not VALIDATOR.is_valid({"taks": "arc_easy"})
    assert not VALIDATOR.is_valid({"num_fewshot": 5})
    assert not VALIDATOR.is_valid({"trust-tasks": True})
    assert not VALIDATOR.is_valid({"model": "a", "models": "b,c"})
    assert VALIDATOR.is_valid({"models": "b,c"})


def test_no_setting_is_missing() -> None:
    """From the schema, or from the help of jaxpaint study, where each says the same."""
    whole = parser(filled=True)
    (commands,) = (action.choices for action in whole._actions if action.dest == "COMMAND" or action.choices)
    options = {option: action for action in commands["study"]._actions for option in action.option_strings}
    for field in fields(StudySpec):
        name = field.name.replace("_", "-")
        option = options["--plan" if name == "plans" else f"--{name}"]
        assert name in OF_FILES or name in COMMAND_LINE_ONLY
        if name in OF_FILES:
            said = SCHEMA["properties"][name]["description"]
            assert said
            assert option.help.replace("%%", "%").startswith(said)


@pytest.mark.usefixtures("nothing_of_the_users")
def test_the_command_prints_it(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("init", "--schema")
    assert (status, err, json.loads(out)) == (0, "", json.loads(json.dumps(SCHEMA)))
    assert not list(tmp_path.iterdir())
    assert json.loads(run("init", "--schema", "--json")[1]) == json.loads(out)
    assert run("init")[0] == 0
    assert Path("study.toml").read_text().startswith("# Settings of a study")
    Path("jaxpaint.schema.json").write_text(out)
    assert run("init", "a.toml")[0] == run("init", "b.yaml")[0] == 0
    assert Path("a.toml").read_text().startswith("#:schema ./jaxpaint.schema.json\n")
    assert Path("b.yaml").read_text().startswith("# yaml-language-server: $schema=jaxpaint.schema.json\n")

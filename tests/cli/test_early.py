"""What cannot run is refused before a model is converted, weights are read or anything is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convert import store_for
from jaxpaint.models import checkpoint
from tests.helpers.tiny_glue import tiny_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def untouched(refused, copy, tmp_path, monkeypatch) -> Callable[..., str]:
    """As `refused`, and the folder with the model, all else that was given and the cache is as it was before."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))

    def command(*arguments: object, expected: tuple[str, ...]) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = refused(*arguments, expected=expected)
        made = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
        # Compiled code and locks are kept of whatever ran before.
        assert not made, made
        return line

    return command


@pytest.fixture
def no_weights(monkeypatch) -> None:
    """Reading weights is a bug's end, which no one-line refusal is."""

    def restore(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(checkpoint, "restore", restore)


OUTSIDE = ("the plan uses layer 99", "5 layers, 0-4")
TEXT = {"logits": ("--text", "A"), "generate": ("--prompt", "A"), "masked": ("--text", "A")}


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("logits", ["--plan", "0 99"], OUTSIDE),
        ("logits", ["--top", 0], ("0 tokens to show",)),
        ("logits", ["--strategy", "skip", "--start", 2], ("start 2 is out of range",)),
        ("logits", ["--tensor-parallel", 7], ("groups of 7",)),
        ("logits", ["--layer-parallel", 7], ("7 lanes",)),
        ("generate", ["--plan", "0 99"], OUTSIDE),
        ("generate", ["--compare", "0 99"], OUTSIDE),
        ("generate", ["--plan", "0 {(1 2) 3} 4", "--kv", "mean"], ("a mean cache is defined for",)),
        ("generate", ["--max-new-tokens", 64], ("--max-new-tokens is 64", "at most 63")),
        ("masked", ["--plan", "0 99"], OUTSIDE),
        ("masked", [], ("no masked-LM head",)),
        ("glue", ["--tasks", "rte", "--store", "TMP/s.sqlite"], ("no pooler",)),
    ],
)
@pytest.mark.few(8)
def test_a_model_that_was_never_converted(untouched, copy, tmp_path, command, options, expected) -> None:
    options = [str(option).replace("TMP", str(tmp_path)) for option in options]
    untouched(command, "--model", copy, *TEXT.get(command, ()), *options, expected=expected)


@pytest.mark.parametrize("plan", ["(0-4*2000)*101", "{(0-4*2000)*50 (0-4*500)*300}", "0-4*1000*1000"])
@pytest.mark.parametrize("command", ["logits", "generate"])
def test_a_plan_of_a_million_layers_is_counted_by_arithmetic(run, copy, tmp_path, monkeypatch, command, plan) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("jaxpaint.plans.nodes.units", lambda _: pytest.fail("the plan was unrolled"))
    status, out, err = run(command, "--model", copy, *TEXT[command], "--plan", plan)
    assert (status, out) == (2, "")
    assert "the plan applies layers more than 1000000 times in all" in err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--plan", "0 99"], OUTSIDE),
        (["--plan", "0 {1 2}"], ("only series plans can be exported",)),
        (["--plan", "0"], ("exists already", "--overwrite")),
        (["--plan", "0", "--overwrite"], ("is not something this would have written",)),
    ],
)
def test_an_export_of_it(untouched, copy, tmp_path, options, expected) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    untouched("export", copy, tmp_path / "full", *options, expected=expected)


TASKS = [
    (["--max-length", 65], ("--max-length is 65", "64 positions")),
    (["--tasks", "WRITE", "--gen-kwargs", "max_gen_toks=64"], ("tiny_write: 64 new tokens leave no room", "64 pos")),
    (["--tasks", "WRITE", "--gen-kwargs", "max_gen_toks=30", "--max-length", 20], ("30 new tokens leave", "20 pos")),
    (["--tasks", "WRITE", "--gen-kwargs", "thrift=1"], ("'thrift' is not known",)),
    (["--tasks", "WRITE", "--gen-kwargs", "repetition_penalty=0"], ("repetition_penalty", "greater than 0")),
    (["--tasks", "none_such"], ("unknown task 'none_such'",)),
]
MEAN = (["--tasks", "WRITE", "--kv", "mean"], ("a mean cache is defined for",))


def named(options: list[object], tmp_path: Path) -> list[object]:
    tasks = [] if "--tasks" in options else ["--tasks", "WRITE"]
    return [make_task(tmp_path / "tasks", "tiny_write") if each == "WRITE" else each for each in [*tasks, *options]]


@pytest.mark.parametrize(("options", "expected"), [*TASKS, MEAN, (["--plan", "99"], ("layer 99",))])
@pytest.mark.few(5)
def test_an_evaluation_of_it(untouched, copy, tmp_path, options, expected) -> None:
    plan = [] if "--plan" in options else ["--plan", "0 {(1 2) 3} 4"]
    untouched("eval", "--model", copy, *named(options, tmp_path), *plan, expected=expected)


@pytest.mark.parametrize(("options", "expected"), [*TASKS, MEAN, (["--plans-file", "PLANS"], ("layer 99",))])
@pytest.mark.few(7)
def test_a_study_of_it(untouched, copy, tmp_path, options, expected) -> None:
    (tmp_path / "plans").write_text("0 99\n" if "PLANS" in options else "0 {(1 2) 3} 4\n")
    given = [each for each in named(options, tmp_path) if each not in ("--plans-file", "PLANS")]
    store = ("--store", tmp_path / "s.sqlite", "--plans-file", tmp_path / "plans")
    untouched("study", "--model", copy, *given, *store, expected=expected)
    if "layer" in expected[0] or "--max-length" in options[:1]:  # what else is to do needs the tokenizer
        untouched("study", "--model", copy, *given, *store, "--dry-run", expected=expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--plans-file", "PLANS"], ("layer 99",)),
        (["--tasks", "none_such", "--strategies", "skip"], ("unknown task",)),
        (["--strategies", "skip", "--starts", 2], ("start 2 is out of range",)),
        (["--tasks", "WRITE", "--strategies", "skip"], ("'tiny_write' has no training documents",)),
    ],
)
def test_a_fine_tuning_of_it(untouched, copy, tmp_path, options, expected) -> None:
    (tmp_path / "plans").write_text("0 99\n")
    given = [tmp_path / "plans" if each == "PLANS" else each for each in named(options, tmp_path)]
    untouched("finetune", "--model", copy, *given, "--store", tmp_path / "s.sqlite", expected=expected)


def test_glue_of_it(untouched, tmp_path) -> None:
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    for file in (train, validation):
        file.write_text(json.dumps({"sentence1": "w1", "sentence2": "w2", "label": 0}) + "\n")
    (tmp_path / "bert").mkdir()
    model = tiny_folder(tmp_path / "bert")
    common = ("glue", "--model", model, "--tasks", "rte", "--store", tmp_path / "s.sqlite")
    data = ("--data", f"rte:train={train}", "--data", f"rte={validation}")
    untouched(*common, *data, "--max-length", 100_000, expected=("max_length is 100000", "positions"))
    (tmp_path / "plans").write_text("99\n")
    untouched(*common, *data, "--plans-file", tmp_path / "plans", expected=("layer 99",))
    validation.write_text(json.dumps({"other": 1}) + "\n")
    untouched(*common, *data, "--max-length", 16, expected=("lacks the column",))


def test_a_conversion_over_what_is_there(untouched, copy, tmp_path, monkeypatch) -> None:
    """Before the checkpoint is looked at: one of the hub is not downloaded for nothing."""
    monkeypatch.setattr("convert.to_store.resolve", lambda *_: pytest.fail("the checkpoint was looked for"))
    untouched("convert", "owner/name", copy, expected=("exists already", "--overwrite"))
    untouched("convert", "owner/name", copy, "--overwrite", expected=("is not something this would have written",))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("logits", "--text", "A " * 100), ("tokens; the model's context holds 64",)),
        (("logits", "--text", ""), ("the text is empty",)),
        (("generate", "--prompt", ""), ("the prompt is empty",)),
        (("generate", "--prompt", "A " * 100, "--max-new-tokens", 9), ("the prompt has", "--truncate-left")),
        (("eval", "--tasks", "WRITE", "--apply-chat-template"), ("no chat template",)),
        (("study", "--tasks", "WRITE", "--apply-chat-template", "--store", "STORE"), ("no chat template",)),
    ],
)
@pytest.mark.usefixtures("no_weights")
@pytest.mark.few(3)
def test_what_the_tokenizer_says_is_told_before_weights_are_read(refused, copy, tmp_path, arguments, expected) -> None:
    store_for(copy)  # what a first use says is not looked at here
    command, *options = (tmp_path / "s.sqlite" if each == "STORE" else each for each in arguments)
    refused(command, "--model", copy, *named(options, tmp_path)[0 if "WRITE" in options else 2 :], expected=expected)
    assert not (tmp_path / "s.sqlite").exists()

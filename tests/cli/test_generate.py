"""jaxpaint generate: what people see."""

from __future__ import annotations

import io
import json

import pytest

import jaxpaint as jp
from jaxpaint.generation.text import Stream
from tests.helpers.generation_configs import with_settings


@pytest.fixture(scope="module")
def model(store):
    return jp.load(store, dtype="float32")


def by_full_passes(model, text: str, plan: str, new: int) -> str:
    tokens = model.tokenizer.encode(text)
    start = len(tokens)
    for _ in range(new):
        logits = model.logits([tokens], jp.Plan.parse(plan))
        tokens.append(int(logits[0, -1].argmax()))
    return model.tokenizer.decode(tokens[start:])


@pytest.mark.smoke
def test_a_text_under_a_plan(run, store, model) -> None:
    status, out, err = run(
        *("generate", "--model", store, "--prompt", "She put the", "--max-new-tokens", 7, "--plan", "0 {1-3}*2 4")
    )
    assert status == 0
    assert out == by_full_passes(model, "She put the", "0 {1-3}*2 4", 7) + "\n"
    assert err.strip() == "plan 0 {1-3}*2 4 (cost 8, depth 4 layers)"


@pytest.mark.slow
def test_standard_input_and_a_stop_string(run, store, model, monkeypatch) -> None:
    whole = by_full_passes(model, "She put the", "0-4", 9)
    monkeypatch.setattr("sys.stdin", io.StringIO("She put the"))
    stop = whole[4:6]
    status, out, _ = run("generate", "--model", store, "--prompt", "-", "--max-new-tokens", 9, "--stop", stop)
    assert status == 0
    assert out == whole.split(stop)[0] + "\n"


@pytest.mark.slow
def test_plans_side_by_side(run, store, model, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plans = ("0-4", "0 {1-3} 4")
    status, out, _ = run(
        *("generate", "--model", store, "--prompt", "She put the", "--max-new-tokens", 5),
        *(argument for plan in plans for argument in ("--compare", plan)),
    )
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split("   ")[0].rstrip() == "0-4"
    assert "0 {1-3} 4" in lines[0]
    left, right = ("".join(line[part].strip() for line in lines[2:]) for part in (slice(0, 38), slice(41, None)))
    for text, plan in ((left, plans[0]), (right, plans[1])):
        assert text.replace(" ", "") == (by_full_passes(model, "She put the", plan, 5) + "…").replace(" ", "")


def test_many_plans_below_each_other(run, store, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    compared = [argument for number in range(4) for argument in ("--compare", f"0-{number}")]
    status, out, _ = run("generate", "--model", store, "--prompt", "She", "--max-new-tokens", 3, *compared)
    assert status == 0
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == ["0", "0 1", "0-2", "0-3"]


@pytest.mark.slow
def test_a_prompt_that_is_too_long(run, refused, store) -> None:
    long = "She put the kettle back where she had found the lantern. " * 8
    arguments = ("generate", "--model", store, "--prompt", long, "--max-new-tokens", 5)
    line = refused(*arguments, expected=("more than the model's 64 positions", "--truncate-left"))
    tokens = int(line.split("the prompt has ")[1].split()[0])
    assert f"that is {tokens + 5 - 64} more" in line
    status, out, _ = run(*arguments, "--truncate-left")
    assert status == 0
    assert out.strip()


@pytest.mark.slow
def test_draws_with_a_seed(run, store) -> None:
    arguments = ("generate", "--model", store, "--prompt", "She", "--max-new-tokens", 8, "--temperature", 3)
    texts = [run(*arguments, "--sampling-seed", seed)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--prompt", ""), ("the prompt is empty",)),
        (("--prompt", "A", "--max-new-tokens", 0), ("--max-new-tokens is 0",)),
        (("--prompt", "A", "--top-k", 3), ("need a --temperature",)),
        (("--prompt", "A", "--temperature", -1), ("temperature is -1.0",)),
        (("--prompt", "A", "--plan", "0-4", "--strategy", "skip", "--start", 1), ("not both",)),
        (("--prompts-file", "no/such/file"), ("no/such/file",)),
        (("--prompt", "A", "--compare", "0-9"), ("the model has 5 layers",)),
        (("--prompt", "A", "--max-new-tokens", 4, "--kv", "mean", "--plan", "0 {(1 2) 3} 4"), ("--kv exact",)),
        (("--prompt", "A", "--kv", "other"), ("invalid choice",)),
    ],
    ids=str,
)
def test_mistakes(refused, store, arguments, expected) -> None:
    refused("generate", "--model", store, *arguments, expected=expected)


def test_a_stream_shows_what_is_certain(model) -> None:
    text = "Ça va? The end, and more"
    tokens = model.tokenizer.encode(text)
    stream = Stream(model.tokenizer, ["end, or"])
    shown = [stream.more([token]) for token in tokens]
    assert "".join(shown) + stream.rest(text) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in shown)
    stopping = Stream(model.tokenizer, ["end, and"])
    assert "".join(stopping.more([token]) for token in tokens) == "Ça va? The "


@pytest.mark.slow
def test_the_checkpoints_own_settings_are_told(run, store, folder, model, tmp_path) -> None:
    whole = by_full_passes(model, "She put the", "0-4", 9)
    tokens = model.tokenizer.encode(whole, add_special_tokens=False)
    values = {"eos_token_id": [1, tokens[4]], "num_beams": 3, "max_new_tokens": 2, "temperature": 0.3}
    copy = with_settings(folder, tmp_path / "model", values)
    status, out, err = run("generate", "--model", copy, "--prompt", "She put the", "--max-new-tokens", 9)
    assert status == 0
    assert out == model.tokenizer.decode(tokens[: tokens.index(tokens[4])]) + "\n"
    assert f"as the checkpoint's generation settings say: eos_token_id=[1, {tokens[4]}]\n" in err
    assert "not honoured, though they change its text: num_beams=3\n" in err
    assert "max_new_tokens" not in err
    assert "temperature" not in err


@pytest.mark.slow
def test_prompts_of_a_file_under_plans(run, store, refused, tmp_path) -> None:
    """Each as it is alone, in the file's order, plan by plan."""
    file, out = tmp_path / "prompts.jsonl", tmp_path / "texts.jsonl"
    prompts = ["the kettle", "a ladder by the harbour"]
    file.write_text("".join(json.dumps({"prompt": prompt, "id": 1}) + "\n" for prompt in prompts) + "\n")
    plans, how = ("0-4", "0 2 4"), ("--model", store, "--dtype", "float32", "--max-new-tokens", 4)
    words = [word for plan in plans for word in ("--plan", plan)]
    assert run("generate", *how, "--prompts-file", file, *words, "-o", out)[1] == f"wrote 4 texts to {out}\n"
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(each["prompt"], each["plan"]) for each in found] == [(p, plan) for p in prompts for plan in plans]
    for each in found:
        alone = run("generate", *how, "--prompt", each["prompt"], "--plan", each["plan"])[1]
        assert alone == f"{each['text']}\n"
    shown = run("generate", *how, "--prompts-file", file, *words)[1]
    assert [shown.index(each["text"]) for each in found] == sorted(shown.index(each["text"]) for each in found)
    text = tmp_path / "prompts.txt"
    text.write_text("\n".join(prompts))
    assert json.loads(run("generate", *how, "--prompts-file", text, *words, "--json")[1])["texts"] == found
    for content, expected in (
        ("", "has no prompt"),
        ('{"text": "x"}', "line 1 is no prompt"),
        ("{", "line 1 cannot be"),
    ):
        file.write_text(content)
        refused("generate", *how, "--prompts-file", file, expected=(expected,))
    refused("generate", *how, "--prompts-file", text, "--prompt", "x", expected=("not allowed with",))

"""jaxpaint eval with lm-eval's switches: what is written of them, and what each mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert import convert
from tests.helpers.tiny_chat import make_chat_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    folder = make_chat_folder(tmp_path_factory.mktemp("chat") / "model", eos_token_id=[1, 70], no_repeat_ngram_size=3)
    return convert(folder, folder.parent / "store")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("tiny_write", "tiny_choice"):
        make_task(folder, name, shots=1)
    return folder


@pytest.fixture
def evaluate(run, chat, tasks, tmp_path):
    """Runs `jaxpaint eval`: (exit status, error, the JSON)."""

    def command(*arguments: object, names: str = "tiny_write,tiny_choice"):
        output = tmp_path / "results.json"
        output.unlink(missing_ok=True)
        fixed = ("eval", "--model", chat, "--tasks", names, "--dtype", "float32", "--output", output)
        status, _, err = run(*fixed, "--include-path", tasks, *arguments)
        return status, err, json.loads(output.read_text())

    return command


@pytest.mark.slow
def test_what_is_written_and_said(evaluate, tmp_path) -> None:
    samples = tmp_path / "samples.json"
    samples.write_text('{"tiny_write": [3, 1], "tiny_choice": [0]}')
    status, err, results = evaluate(
        *("--apply-chat-template", "--system-instruction", "Be brief.", "--fewshot-as-multiturn", "false"),
        *("--gen-kwargs", "max_gen_toks=4,until=['zz', 'yy']", "repetition_penalty=1.5"),
        *("--seed", "5", "--samples", samples, "--max-length", 300, "--log-samples"),
    )
    assert status == 0
    first, second = err.splitlines()
    assert first == "jaxpaint: as the checkpoint's generation settings say: eos_token_id=[1, 70]"
    assert second.endswith("not honoured, though they change its text: no_repeat_ngram_size=3")
    config = results["config"]
    expected = {
        **{"apply_chat_template": True, "system_instruction": "Be brief.", "fewshot_as_multiturn": False},
        **{"random_seed": 5, "numpy_seed": 5, "torch_seed": 5, "fewshot_seed": 5, "max_length": 300, "limit": None},
        "gen_kwargs": {"max_gen_toks": 4, "until": ["zz", "yy"], "repetition_penalty": 1.5},
        "samples": {"tiny_write": [3, 1], "tiny_choice": [0]},
        "generation": {"eos_token_id": [1, 70], "not_honoured": {"no_repeat_ngram_size": 3}},
    }
    assert {name: config[name] for name in expected} == expected
    written = results["samples"]["tiny_write"]
    assert [sample["doc_id"] for sample in written if sample["filter"] == "whole"] == [1, 3]
    context, settings = written[0]["arguments"][0]
    assert context.startswith("<s><|system|>Be brief.\n<|user|>")
    assert context.endswith("<|assistant|>")
    assert settings["max_gen_toks"] == 4


@pytest.mark.slow
def test_underscores_and_no_switches(evaluate) -> None:
    status, err, plain = evaluate("--num_fewshot=0", "--limit", 2, "--log_samples", names="tiny_choice")
    assert (status, err) == (0, "")  # it writes nothing, so settings of generation are of no account
    seeds = {"random_seed": 0, "numpy_seed": 1234, "fewshot_seed": 1234}
    assert {name: value for name, value in plain["config"].items() if name.endswith("_seed")} == seeds
    assert not {"apply_chat_template", "system_instruction", "gen_kwargs", "samples"} & plain["config"].keys()
    assert plain["samples"]["tiny_choice"][0]["arguments"][0][0].startswith("Question: Where is thing 0?")
    _, _, chat = evaluate(
        "--num_fewshot=0", "--limit", 2, "--log_samples", "--apply_chat_template", names="tiny_choice"
    )
    assert chat["samples"]["tiny_choice"][0]["arguments"][0][0].startswith("<s><|user|>Question: Where is thing 0?")


@pytest.mark.slow
def test_a_seed_of_a_strategy_stays_its_own(evaluate) -> None:
    of_strategy = [
        evaluate("--limit", 1, "--strategy", "random", "--start", 0, "--seed", seed, names="tiny_choice")[2]["config"]
        for seed in (1, 2)
    ]
    assert of_strategy[0]["plan"] != of_strategy[1]["plan"]
    assert [config["fewshot_seed"] for config in of_strategy] == [1234, 1234]
    random = ("--limit", 1, "--strategy", "random", "--start", 0, "--seed", "1,2,3,4", "--seed", 2)
    *_, both = evaluate(*random, names="tiny_choice")
    assert both["config"]["fewshot_seed"] == 4
    assert both["config"]["plan"] == of_strategy[1]["plan"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--fewshot-as-multiturn",), ("give --apply-chat-template, too",)),
        (("--fewshot-as-multiturn", "perhaps"), ("--fewshot-as-multiturn is 'perhaps'; expected true or false",)),
        (("--gen-kwargs", "temperature"), ("--gen-kwargs", "expected NAME=VALUE")),
        (("--gen-kwargs", '{"until": ['), ("--gen-kwargs", "cannot be read as JSON")),
        (("--seed", "1,2"), ("--seed is '1,2'; expected a number, or four by commas",)),
        (("--seed", "x"), ("--seed is 'x'; expected",)),
        (("--samples", "{"), ("--samples", "cannot be read as JSON")),
        (("--samples", '{"tiny_write": [-1]}'), ("--samples", "tiny_write.0")),
        (("--samples", '{"tiny_write": 3}'), ("--samples", "tiny_write")),
        (("--samples", "/nowhere.json"), ("--samples", "/nowhere.json cannot be read")),
        (("--samples", '{"tiny_write": [99]}'), ("document 99 of tiny_write, which has 12",)),
        (("--samples", '{"tiny_write": [1]}', "--limit", 2), ("--limit has no meaning beside it",)),
        (("--include-path", "/nowhere"), ("include path '/nowhere' is not a folder",)),
        (("--max-length", 0), ("--max-length is 0; expected a whole number, 1 or more",)),
        (("--max-length", 9999), ("--max-length is 9999; expected 1 to the model's 64 positions",)),
        (("--apply-chat-template",), ("has no chat template",)),
    ],
    ids=str,
)
def test_mistakes(refused, store, tasks, arguments, expected) -> None:
    refused("eval", "--model", store, "--tasks", "tiny_write", "--include-path", tasks, *arguments, expected=expected)

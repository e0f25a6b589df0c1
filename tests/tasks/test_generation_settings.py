"""Generative tasks on a checkpoint with generation settings of its own: the texts of lm-eval's own backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.generation import generate
from jaxpaint.tasks.harness import PlanLM
from tests.helpers.generation_configs import with_settings
from tests.helpers.tiny_folder import make_folder

CONTEXTS = ["She put the kettle", "Question: Where is the saddle? Answer:", "A", "Ça va? 谢谢 🙂"]
SETTINGS = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiny") / "model")


def asked(settings: dict[str, Any]) -> list[Instance]:
    arguments = [(context, settings) for context in CONTEXTS]
    return [Instance("generate_until", {}, each, n, metadata=("written", n, 1)) for n, each in enumerate(arguments)]


def both(folder: Path, store: Path, settings: dict[str, Any]) -> tuple[list[str], list[str]]:
    model = jp.load(convert(folder, store), dtype="float32")
    theirs = HFLM(str(folder), dtype="float32", device="cpu", batch_size=1)
    ours = PlanLM(model, model.full_plan)
    return ours.generate_until(asked(settings)), theirs.generate_until(asked(settings), disable_tqdm=True)


@pytest.fixture(scope="module")
def plain(folder) -> list[str]:
    found, expected = both(folder, folder.parent / "store", SETTINGS)
    assert found == expected
    return found


@pytest.fixture(scope="module")
def used(folder, plain) -> int:
    """A token that is written."""
    model = jp.load(folder.parent / "store", dtype="float32")
    prompt = PlanLM(model, model.full_plan).encoding.encode_prompt(asked(SETTINGS)[0]).prompt
    (found,) = generate(model, [prompt], [model.full_plan])
    return found.tokens[3]


USED = "a token that is written"
CASES = {
    "ends": ({"eos_token_id": [1, USED]}, {}),
    "another end than the tokenizer's": ({"eos_token_id": USED}, {}),
    "penalty": ({"repetition_penalty": 1.3}, {}),
    "least new tokens": ({"eos_token_id": [1, USED], "min_new_tokens": 8}, {}),
    "least length": ({"eos_token_id": [1, USED], "min_length": 25}, {}),
    "never": ({"suppress_tokens": [USED], "begin_suppress_tokens": [1]}, {}),
    "last": ({"forced_eos_token_id": [USED]}, {}),
    "its own length": ({"max_new_tokens": 5}, {}),
    "a task's penalty before its own": ({"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}),
    "a task's end before its own": ({"eos_token_id": 1}, {"eos_token_id": [USED], "num_beams": 1}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_texts_equal_lm_evals_own(folder, plain, used, tmp_path, name):
    generation, given = ({key: _filled(value, used) for key, value in each.items()} for each in CASES[name])
    copy = with_settings(folder, tmp_path / "model", generation)
    found, expected = both(copy, tmp_path / "store", {**SETTINGS, **given})
    assert found == expected
    assert found != plain


def _filled(value: Any, used: int) -> Any:
    if isinstance(value, list):
        return [_filled(each, used) for each in value]
    return used if value == USED else value


def test_settings_of_a_task_that_cannot_be(folder, tmp_path):
    model = jp.load(convert(folder, tmp_path / "store"), dtype="float32")
    with pytest.raises(UserError, match=r"written: generation settings .*repetition_penalty.* greater than 0"):
        PlanLM(model, model.full_plan).generate_until(asked({**SETTINGS, "repetition_penalty": 0}))

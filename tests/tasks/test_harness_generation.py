"""What our lm-eval model writes beside lm-eval's own for transformers: the same prompts, the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.tasks.harness import PlanLM
from tests.helpers.tiny_folder import BOS, MAX_LENGTH, make_folder

CONTEXTS = [
    "She put the kettle",
    "She put the kettle back where she had found",
    "Question: Where is the saddle? Answer:",
    "A",
    "Ça va? 谢谢 🙂",
    f"{BOS}She put",
    " ".join(f"The lantern number {number} is in the harbour." for number in range(12)),
]
SETTINGS = {"until": ["\n\n"], "max_gen_toks": 10, "do_sample": False}


@pytest.fixture(scope="module", params=[False, True], ids=["plain tokenizer", "tokenizer that adds BOS"])
def folder(request, tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiny") / "model", adds_bos=request.param)


@pytest.fixture(scope="module")
def model(folder) -> jp.Model:
    return jp.load(convert(folder, folder.parent / "store"), dtype="float32")


@pytest.fixture(scope="module")
def theirs(folder) -> HFLM:
    return HFLM(str(folder), dtype="float32", device="cpu", batch_size=1)


def instances(contexts: list[str], settings: dict[str, Any]) -> list[Instance]:
    arguments = [(context, settings) for context in contexts]
    return [
        Instance("generate_until", {}, each, index, metadata=("written", 0, 1)) for index, each in enumerate(arguments)
    ]


def ours(model: jp.Model, plan: str = "0-4", **options: Any) -> PlanLM:
    return PlanLM(model, jp.Plan.parse(plan), **options)


@pytest.mark.slow
def test_texts_equal_lm_evals_own(model, theirs):
    asked = instances(CONTEXTS, SETTINGS)
    expected = theirs.generate_until(asked, disable_tqdm=True)
    assert ours(model).generate_until(asked) == expected
    assert ours(model, batch_size=2).generate_until(asked) == expected
    assert len(set(expected)) > 3


@pytest.mark.slow
def test_stop_strings_end_texts_wherever_tokens_part(model, theirs):
    whole = theirs.generate_until(instances(CONTEXTS, SETTINGS), disable_tqdm=True)
    found = {text[i : i + size] for text in whole[:4] for size in (1, 2, 4) for i in (1, 3)}
    # lm-eval looks for a stop string in pieces of the text, whose first and last character may be half there.
    stops = sorted(stop for stop in found if stop and stop.isascii())
    assert len(stops) > 5
    for stop in stops:
        asked = instances(CONTEXTS[:4], {**SETTINGS, "until": [stop, "never to be seen"]})
        expected = theirs.generate_until(asked, disable_tqdm=True)
        assert ours(model).generate_until(asked) == expected, repr(stop)
        assert not any(stop in text for text in expected)


def test_an_empty_stop_string_stops_nothing(model):
    """lm-eval's own backend ends at once; its text splitting passes such a string over."""
    first, second = (
        ours(model).generate_until(instances(CONTEXTS, {**SETTINGS, "until": until}))
        for until in (["\n\n"], ["\n\n", ""])
    )
    assert first == second


@pytest.mark.few(1)
def test_an_empty_context_is_the_prefix_token(model):
    (found,) = ours(model, bos="off").generate_until(instances([""], SETTINGS))
    (expected,) = ours(model, bos="off").generate_until(instances([BOS], SETTINGS))
    assert found == expected


@pytest.mark.slow
def test_the_plan_and_the_cache_count(model):
    asked = instances(CONTEXTS, {**SETTINGS, "max_gen_toks": 20})
    texts = [
        ours(model, plan, kv=kv).generate_until(asked)
        for plan, kv in (("0-4", "exact"), ("0 {1-3}*3 4", "exact"), ("0 {1-3}*3 4", "mean"))
    ]
    assert texts[0] != texts[1] != texts[2]


def test_drawn_texts_are_the_same_again(model):
    asked = instances(CONTEXTS, {**SETTINGS, "do_sample": True, "temperature": 2.0})
    first = ours(model).generate_until(asked)
    assert ours(model).generate_until(asked) == first
    assert ours(model).generate_until(instances(CONTEXTS, SETTINGS)) != first


@pytest.mark.slow
def test_different_settings_in_one_call(model):
    asked = [*instances(CONTEXTS[:3], SETTINGS), *instances(CONTEXTS[:3], {**SETTINGS, "max_gen_toks": 2})]
    together = ours(model).generate_until(asked)
    assert together == [ours(model).generate_until([each])[0] for each in asked]


def test_progress_and_work(model):
    totals, done = [], []

    def progress(total: int):
        totals.append(total)
        return done.append

    lm = ours(model, progress=progress)
    lm.generate_until(instances(CONTEXTS, SETTINGS))
    assert totals == [10 * len(CONTEXTS)] == [sum(done)]
    assert lm.work[0].request_tokens > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_gen_toks": MAX_LENGTH}, f"{MAX_LENGTH} new tokens leave no room for a prompt"),
        ({"num_beams": 4}, "the generation setting 'num_beams' is not known"),
        ({"do_sample": True, "temperature": 1.0, "top_p": 3.0}, "top-p is 3.0"),
    ],
)
def test_settings_that_cannot_be(model, settings, message):
    with pytest.raises(UserError, match=message):
        ours(model).generate_until(instances(["A"], {**SETTINGS, **settings}))

"""TOML files as nobody should write them: settings, or refused in one line."""

from __future__ import annotations

import json
import os
import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.studies.settings import spec_from
from jaxpaint.studies.spec import StudySpec
from tests.helpers.hostile import damage, documents, refused

AS_ONE = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
SETTINGS: dict[str, Any] = {
    "model": "painter-16",
    "dtype": "float32",
    "tensor-parallel": 2,
    "layer-parallel": 2,
    "offload": False,
    "tasks": ["lambada_openai", "hellaswag"],
    "data": ["hellaswag=a,b.jsonl"],
    "num-fewshot": 5,
    "bos": "on",
    "strategies": ["skip", "random", "looped-parallel", "block-repeat"],
    "starts": "0-14/2",
    "seeds": 3,
    "loops": [1, 3],
    "times": 4,
    "plans": ["0-8 {9-22} * 3 23-31"],
    "analyses": ["similarity"],
    "analysis-samples": 7,
    "store": "study.sqlite",
    "shard": "2/8",
    "batch-tokens": 512,
    "gen-kwargs": {"temperature": 0.5},
    "samples": {"hellaswag": [1, 2]},
    "seed": [1, 2, 3, 4],
}


def toml(value: Any) -> str:
    """A value of JSON as TOML has it, which has no null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return '"null"' if value is None else json.dumps(value)


WHOLE = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in SETTINGS.items()).encode()


def test_the_settings_are_some(tmp_path) -> None:
    (tmp_path / "study.toml").write_bytes(WHOLE)
    assert tomllib.loads(WHOLE.decode()) == SETTINGS
    assert spec_from({}, tmp_path / "study.toml").batch_tokens == 512


@AS_ONE
@given(st.data())
def test_values_of_any_kind(tmp_path, data) -> None:
    drawn = data.draw(documents(SETTINGS))
    with suppress(ValueError, AttributeError, RecursionError):  # not like one at all
        drawn = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in json.loads(drawn).items()).encode()
    file = tmp_path / "study.toml"
    file.write_bytes(drawn)
    refused(lambda: spec_from({}, file).variants(16))


@AS_ONE
@given(damage(len(WHOLE)))
def test_any_bytes(tmp_path, done) -> None:
    file = tmp_path / "study.toml"
    file.write_bytes(done.of(WHOLE))
    refused(lambda: spec_from({}, file))


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, "a = " + "[" * 5000 + "]" * 5000, ".".join("a" * 100_000) + " = 1"],
    ids=["cut", "whole", "a key"],
)
def test_nesting(tmp_path, text) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert refused(lambda: spec_from({}, tmp_path / "study.toml"))


LONG = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"limit = {LONG}",
        f"limit = 0x{LONG}",
        f"batch-tokens = 0x{LONG}",
        f'seed = "{LONG}"',
        f'shard = "1/{LONG}"',
        f'seeds = "{LONG}"',
        'shard = "1/1000000000"',
        "limit = 1979-05-27",
        "gen-kwargs = {temperature = nan}",
        "gen-kwargs = {temperature = 1979-05-27}",
        "samples = {arc_easy = [1000000000000]}",
    ],
)
def test_numbers_of_any_length(tmp_path, text) -> None:
    (tmp_path / "study.toml").write_text(
        f'model = "m"\nstore = "s"\ntasks = ["arc_easy"]\nstrategies = ["random"]\n{text}'
    )
    assert refused(lambda: spec_from({}, tmp_path / "study.toml"))


def test_pipes_are_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "study.toml")
    assert refused(lambda: spec_from({}, tmp_path / "study.toml"))


def study(**options: Any) -> StudySpec:
    return spec_from({"model": "m", "store": "s", "tasks": "arc_easy", **options})


def test_plans_are_counted_before_they_are_made() -> None:
    both = {"strategies": "looped-parallel,random", "loops": "1-90000", "seeds": 90_000}
    with pytest.raises(UserError, match=r"makes 180,001 plans .*90,000 of random.* at most 100,000"):
        study(**both)
    with pytest.raises(UserError, match="makes 900,001 plans"):
        study(strategies="random", seeds=90_000, starts="0-9")
    grid = study(strategies="random", seeds=90_000)  # the starts are the model's, which is not known yet
    with pytest.raises(UserError, match="makes 1,440,001 plans"):
        grid.variants(32)


def test_work_beyond_memory() -> None:
    with pytest.raises(UserError, match="more than 10,000,000 times a token in all"):
        study(strategies="looped-parallel", loops="1-1000").variants(32)


def test_plans_that_python_cannot_follow() -> None:
    with pytest.raises(UserError, match="more than 200 plans go on one from the other"):
        study(strategies="looped-parallel", loops="1-300", starts="6").shard_variants(16)
    assert len(study(strategies="looped-parallel", loops="1-200", starts="6").shard_variants(16)) == 201


def test_the_paper_s_study_of_a_large_model_fits() -> None:
    assert len(study(preset="paper").variants(80)) > 1900

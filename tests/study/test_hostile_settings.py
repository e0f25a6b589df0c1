"""TOML files as nobody should write them: settings, or refused in one line."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpaint.study.settings import spec_from
from tests.helpers.hostile import damage, documents, refused

AS_ONE = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
SETTINGS: dict[str, Any] = {
    "model": "painter-16",
    "dtype": "float32",
    "tensor-parallel": 2,
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


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "[" * 5000 + "]" * 5000], ids=["cut", "whole"])
def test_nesting(tmp_path, text) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert refused(lambda: spec_from({}, tmp_path / "study.toml"))

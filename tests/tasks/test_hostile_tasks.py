"""Task files as nobody should write them: loaded, or refused in one line."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.load import build_instances, load_tasks
from tests.helpers.hostile import damage, documents, refused
from tests.helpers.tiny_tasks import SCORED, make_task

AS_ONE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def read(file: Path) -> None:
    build_instances(load_tasks([str(file)]), limit=2)


@AS_ONE
@given(st.data())
def test_values_of_any_kind(tmp_path, data) -> None:
    name = data.draw(st.sampled_from(SCORED))
    file = Path(make_task(tmp_path, name, documents=3))
    written = json.loads(file.read_text())
    # Other datasets would be asked of the hub.
    dataset = {key: written.pop(key) for key in ("dataset_path", "dataset_kwargs")}
    drawn = data.draw(documents(written))
    with suppress(ValueError, TypeError, RecursionError):  # not like one at all
        drawn = json.dumps(json.loads(drawn) | dataset).encode()
    file.write_bytes(drawn)
    refused(lambda: read(file))


@AS_ONE
@given(st.data())
def test_any_bytes(tmp_path, data) -> None:
    file = Path(make_task(tmp_path, "tiny_choice", documents=3))
    whole = file.read_bytes()
    file.write_bytes(data.draw(damage(len(whole))).of(whole))
    refused(lambda: read(file))


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "task: x\nmore: " + "[" * 100_000,
        "task: x\nmore: " + "[" * 20_000 + "]" * 20_000,
        "task: &t [*t]\n",
        "task: x\nx: !!python/object/apply:os.system ['false']",
        f"task: x\n{LAUGHS}",
        "\x00",
        "",
    ],
    ids=["a list", "deep and cut", "deep", "in itself", "an object", "a billion", "null", "nothing"],
)
def test_no_tasks(tmp_path, text) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert refused(lambda: read(tmp_path / "x.yaml"))


def odd(tmp_path: Path, **changed: object) -> Path:
    file = Path(make_task(tmp_path, "tiny_choice", documents=3))
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return file


def test_anchors_that_no_results_could_hold(tmp_path) -> None:
    file = odd(tmp_path)
    laughs = LAUGHS.replace("\n", ",").rstrip(",")
    file.write_text(file.read_text().rstrip()[:-1] + f", metadata: {{version: 1, {laughs}}}}}")
    with pytest.raises(UserError, match=r"the configuration of task 'tiny_choice' stands for .* values"):
        read(file)


@pytest.mark.parametrize("asked", [-3, 10**12])
def test_examples_that_there_are_not(tmp_path, asked) -> None:
    with pytest.raises(UserError, match=f"num_fewshot .*{asked}"):
        load_tasks([str(odd(tmp_path, num_fewshot=asked))])


@pytest.mark.parametrize("repeats", [0, 1.5, True, "many", 1_000_000_000])
def test_repeats_without_end(tmp_path, repeats) -> None:
    told = f"task 'tiny_choice' sets repeats to {repeats!r}; expected a whole number, 1 to 1000"
    with pytest.raises(UserError, match=told):
        load_tasks([str(odd(tmp_path, repeats=repeats))])


def test_pipes_are_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert refused(lambda: read(tmp_path / "pipe.yaml"))
    assert refused(lambda: load_tasks(["x"], include_path=tmp_path))

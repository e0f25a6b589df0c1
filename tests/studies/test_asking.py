"""A study with lm-eval's switches: settings from a TOML file, and results kept apart from those asked otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.studies.run import run_study
from jaxpaint.studies.settings import spec_from
from jaxpaint.studies.spec import FinetuneSpec, StudySpec
from jaxpaint.tasks.asking import Asking
from tests.helpers.study_store import rows
from tests.helpers.tiny_chat import make_chat_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("own_datasets")

TOML = """
model = "m"
store = "s.sqlite"
tasks = ["arc_easy"]
apply-chat-template = true
fewshot-as-multiturn = false
system-instruction = "Be brief."
gen-kwargs = {max_gen_toks = 20, until = ["x"]}
seed = "1,None,3,4"
include-path = "tasks"
max-length = 128
samples = {arc_easy = [3, 1]}
"""


def test_settings_from_a_file(tmp_path):
    (tmp_path / "study.toml").write_text(TOML)
    spec = spec_from({}, tmp_path / "study.toml")
    assert spec.asking == Asking(
        apply_chat_template=True,
        system_instruction="Be brief.",
        fewshot_as_multiturn=False,
        gen_kwargs={"max_gen_toks": 20, "until": ["x"]},
        samples={"arc_easy": [3, 1]},
        seed=(1, None, 3, 4),
    )
    assert (spec.include_path, spec.max_length) == (Path("tasks"), 128)
    # An option goes before the file.
    assert spec_from({"seed": ["7"], "gen-kwargs": ["a=1"]}, tmp_path / "study.toml").asking.seed == (7, 7, 7, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit = 5", "--limit has no meaning beside it"),
        ("gen-kwargs = 5", "gen-kwargs is 5; expected"),
        ("seed = [1, 2]", "seed is "),
        ("seed = true", "seed is true"),
        ("samples = {arc_easy = [-3]}", "arc_easy.0"),
        ("apply-chat-template = 3", "apply-chat-template is 3"),
        ("apply-chat-template = false", "give --apply-chat-template, too"),
    ],
)
def test_settings_that_cannot_be(tmp_path, text, message):
    name = text.partition(" ")[0]
    lines = [line for line in TOML.splitlines() if not line.startswith(name)]
    lines = [line.replace("multiturn = false", "multiturn = true") for line in lines]
    (tmp_path / "study.toml").write_text("\n".join([*lines, text]))
    with pytest.raises(UserError, match=message):
        spec_from({}, tmp_path / "study.toml")


def test_finetuning_has_no_switches(tmp_path):
    spec = StudySpec("m", tmp_path / "s.sqlite", ("arc_easy",), strategies=("skip",), system_instruction="Be brief.")
    with pytest.raises(UserError, match="fine-tuning asks documents as the tasks say"):
        FinetuneSpec(spec)


@pytest.mark.slow
def test_one_store_keeps_results_apart(tmp_path):
    folder = make_chat_folder(tmp_path / "model", eos_token_id=[1, 70], num_beams=2)
    told: list[str] = []
    spec = StudySpec(
        model=str(convert(folder, tmp_path / "store")),
        dtype="float32",
        store=tmp_path / "study.sqlite",
        tasks=(make_task(tmp_path, "tiny_write", shots=1),),
        limit=3,
    )
    chat = replace(spec, apply_chat_template=True, system_instruction="Be brief.")
    for each in (spec, chat, replace(chat, limit=None, samples={"tiny_write": [2, 11]}), spec):
        summary = run_study(each, tell=told.append)
        assert (summary.finished, summary.cells) == (1, 1)
    assert summary.written == 0  # the first again
    settings = [json.loads(row["settings"]) for row in rows(spec.store, "SELECT settings FROM tasks ORDER BY id")]
    generation = {"eos_token_id": [1, 70], "not_honoured": {"num_beams": 2}}
    assert [each["generation"] for each in settings] == [generation] * 3
    assert "chat_template" not in settings[0]
    assert settings[1]["system_instruction"] == "Be brief."
    assert settings[2]["samples"] == [2, 11]
    documents = [
        row["document"] for row in rows(spec.store, "SELECT document FROM generations ORDER BY cell, document")
    ]
    assert documents == [0, 1, 2, 0, 1, 2, 2, 11]
    scored = {row["document"] for row in rows(spec.store, "SELECT document FROM document_results")}
    assert scored == {0, 1, 2, 11}
    assert any("not honoured, though they change its text: num_beams=2" in line for line in told)

"""Weights in integers through commands: results say them and never mix with others; fine-tuning refuses them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import described, parts
from jaxpaint.training.settings import DECODER, ENCODER
from jaxpaint.training.tune import tune_decoder, tune_encoder
from tests.helpers.study_store import rows
from tests.helpers.tiny_glue import tiny_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TASK = "arc_challenge"
CELLS = (
    "SELECT m.dtype, p.text, c.status, sum(s.loglikelihood) AS total FROM cells c JOIN models m ON m.id = c.model "
    "JOIN plans p ON p.id = c.plan JOIN scores s ON s.cell = c.id GROUP BY c.id ORDER BY c.id"
)


@pytest.fixture
def asked(store: Path, files: Path) -> list[object]:
    return ["--model", store, "--dtype", "float32", "--tasks", TASK, "--data", f"{TASK}={files / TASK}.jsonl"]


@pytest.mark.slow
def test_results_of_other_weights_are_others(run, asked, tmp_path: Path) -> None:
    results = tmp_path / "results.sqlite"
    study = ("study", *asked, "--strategies", "skip", "--starts", 1, "--store", results)
    for weights in ((), ("--weights", "int8"), ("--weights", "int4"), ("--weights", "float")):
        status, _, err = run(*study, *weights)
        assert status == 0, err
    found = rows(results, CELLS)
    assert [row["dtype"] for row in found] == [
        *["float32"] * 2,
        *["float32, int8 weights"] * 2,
        *["float32, int4 weights"] * 2,
    ]
    totals = [row["total"] for row in found]
    assert len(set(totals)) == 6
    assert totals[2:4] == pytest.approx(totals[:2], rel=0.01)
    assert {row["status"] for row in found} == {"finished"}
    status, out, _ = run("results", results)
    assert "float32, int8 weights, 5 layers" in out
    status, out, _ = run("results", results, "--format", "lm-eval")
    configs = [each["config"] for each in json.loads(out)]
    assert sorted({(config["dtype"], config["weights"]) for config in configs}) == [
        ("float32", "float"),
        ("float32", "int4"),
        ("float32", "int8"),
    ]


def test_eval_says_what_it_computed_with(run, asked, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    status, out, err = run("eval", *asked, "--weights", "int8", "--output", file)
    assert status == 0, err
    assert "float32, int8 weights, BOS" in out
    config = json.loads(file.read_text())["config"]
    assert (config["dtype"], config["weights"]) == ("float32", "int8")
    assert run("eval", *asked, "--output", file)[0] == 0
    assert json.loads(file.read_text())["config"]["weights"] == "float"


def test_a_dry_run_names_them(run, asked, tmp_path: Path) -> None:
    status, out, err = run("study", *asked, "--store", tmp_path / "none.sqlite", "--dry-run", "--weights", "int8")
    assert status == 0, err
    assert out.splitlines()[0].endswith("parameters, float32, int8 weights")


@pytest.mark.slow
def test_other_commands_take_them(run, store: Path, tmp_path: Path) -> None:
    status, _, err = run("logits", "--model", store, "--weights", "int8", "--text", "She put")
    assert status == 0, err
    status, _, err = run("generate", "--model", store, "--weights", "int4", "--prompt", "She", "--max-new-tokens", 2)
    assert status == 0, err
    status, out, err = run("masked", "--model", tiny_store(tmp_path), "--weights", "int8", "--text", "w1 w2 w3")
    assert status == 0, err
    assert out.splitlines()[0].endswith("tokens masked, float32, int8 weights")


def test_fine_tuning_refuses_them(refused, asked, tmp_path: Path) -> None:
    told = ("int8 weights cannot be fine-tuned; leave out --weights int8",)
    results = ("--store", tmp_path / "none.sqlite", "--strategies", "skip", "--weights", "int8")
    refused("finetune", *asked, *results, expected=told)
    refused("glue", "--model", asked[1], "--tasks", "rte", *results, expected=told)
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.slow
def test_training_refuses_a_model_of_them(store: Path, tmp_path: Path) -> None:
    decoder = jp.load(store, weights="int8")
    with pytest.raises(UserError, match="int8 weights cannot be fine-tuned"):
        tune_decoder(decoder, {}, decoder.full_plan, None, DECODER)  # type: ignore[arg-type]
    encoder = jp.load(tiny_store(tmp_path), weights="int4")
    with pytest.raises(UserError, match="int4 weights cannot be fine-tuned"):
        tune_encoder(encoder, encoder.full_plan, None, np.zeros(1), 2, 0, ENCODER)  # type: ignore[arg-type]


def test_words_and_back() -> None:
    for dtype in ("float32", "bfloat16"):
        assert described(dtype, "float") == dtype  # as in stores that are older than integer weights
        for weights in ("float", "int8", "int4"):
            assert parts(described(dtype, weights)) == (dtype, weights)

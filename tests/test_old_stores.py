"""What version 0.1.0 wrote is continued: stores of results, converted models, and what families store of a config.

`tests/old/` holds what that version made: the results of a small study of painter-16, the manifest of painter-16
converted, and for tiny models of every family the configuration it stored and its parameters' paths and shapes.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import pytest

from convert import convert
from jaxpaint.base.bundled import FOLDER
from jaxpaint.models import abstract_parameters, from_dict, from_huggingface

OLD = Path(__file__).parent / "old"
FAMILIES = json.loads((OLD / "families.json").read_text())
STUDY = ["--model", "painter-16", "--tasks", "painter_letters,painter_arithmetic", "--limit", 3, "--strategies", "skip"]
STUDY += ["--starts", 6, "--analyses", "similarity,block_influence", "--analysis-task", "painter_letters"]
STUDY += ["--analysis-samples", 2]


def _contents(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as connection:
        later = ("checksums", "document_texts", "task_group", "group_members")  # which that version had none of
        return [line for line in connection.iterdump() if not any(name in line for name in later)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "study.sqlite"
    path.write_bytes(gzip.decompress((OLD / "study.sqlite.gz").read_bytes()))
    return path


def test_a_finished_study_has_nothing_to_compute(run, store: Path) -> None:
    before = _contents(store)
    status, out, err = run("study", *STUDY, "--store", store)
    assert status == 0, err
    assert "2 plans, 4 of 4 results finished; there was nothing to compute" in out + err
    assert _contents(store) == before
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT count(*) FROM document_texts").fetchone() == (6,)


@pytest.mark.slow
def test_a_study_goes_on_with_what_it_lacks(run, store: Path) -> None:
    scores = "SELECT cell, request, loglikelihood FROM scores WHERE loglikelihood IS NOT NULL ORDER BY cell, request"
    with closing(sqlite3.connect(store)) as connection:
        before = connection.execute(scores).fetchall()
    status, out, err = run("study", *STUDY, "--limit", 4, "--store", store)
    assert status == 0, err
    assert "2 plans, 4 of 4 results finished; 2 scores" in out + err
    with closing(sqlite3.connect(store)) as connection:
        after = connection.execute(scores).fetchall()
    assert set(before) < set(after)
    assert len(after) == len(before) + 2


@pytest.mark.slow
def test_a_flipped_bit_is_named_and_computed_again(run, store: Path, tmp_path: Path) -> None:
    assert run("study", *STUDY, "--store", store)[0] == 0
    scores = "SELECT cell, request, round(loglikelihood, 4) FROM scores ORDER BY cell, request"
    with closing(sqlite3.connect(store)) as connection, connection:
        before = connection.execute(scores).fetchall()
        connection.execute("UPDATE scores SET loglikelihood = loglikelihood * 2 WHERE cell = 2 AND request = 1")
    for command in (("results", store), ("report", store, "-o", tmp_path / "report")):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"results store {store} is damaged: 1 result (painter_letters under 0-" in err
    status, out, err = run("study", *STUDY, "--store", store)
    assert status == 0, err
    assert f"{store}: damaged, and computed again where it is asked for: 1 result (painter_letters under" in err
    assert "4 of 4 results finished; 3 scores" in out + err
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute(scores).fetchall() == before


def test_results_and_report_read_it(run, store: Path, tmp_path: Path) -> None:
    status, out, err = run("results", store)
    assert status == 0, err
    assert "skip start=6" in out
    status, out, err = run("report", store, "-o", tmp_path / "report")
    assert status == 0, err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Block Influence of each step" in page
    assert page.count("No interval: the store holds the mean over the texts alone") >= 2


def test_a_model_converts_to_the_same_store(tmp_path: Path) -> None:
    """The fingerprint stands for the parameters and their paths: another one would be another model in old results."""
    old = json.loads((OLD / "painter-16.json").read_text())
    made = convert(FOLDER, tmp_path / "store")
    manifest = json.loads((made / "manifest.json").read_text())
    assert {name: manifest[name] for name in old["manifest"]} == old["manifest"]
    assert json.loads((made / "config.json").read_text()) == old["config"]


@pytest.mark.parametrize("name", FAMILIES)
def test_configurations_and_parameters_are_stored_alike(name: str) -> None:
    old = FAMILIES[name]
    config = from_huggingface(old["huggingface"])
    assert config.to_dict() == old["config"]
    assert from_dict(old["config"]) == config
    shapes = {path: list(leaf.shape) for path, leaf in abstract_parameters(config, jnp.float32).items()}
    assert list(shapes.items()) == list(old["parameters"].items())

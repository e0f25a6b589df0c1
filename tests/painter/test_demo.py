"""The model that comes with the package, and the study of it that `jaxpaint study` without options is."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jaxpaint.base.bundled import FOLDER

MODEL = "painter-16"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_demo_says_what_it_found_and_where_the_report_is(run, here) -> None:
    status, out, err = run("study", "--limit", 6, "--starts", "5,6", "--seeds", 1)
    assert status == 0, err
    assert "findings" in out
    assert "on painter-16 (16 layers). From least harm to most: " in " ".join(out.split())
    for kind in ("facts", "work", "sales", "places", "arithmetic", "letters"):
        assert f"\npainter_{kind} " in out
    assert out.splitlines()[-1] == f"report: {MODEL}-report/report.html"
    page = (here / f"{MODEL}-report" / "report.html").read_text()
    assert f"<title>{MODEL} under layer plans</title>" in page
    summary = (here / f"{MODEL}-report" / "summary.txt").read_text()
    assert summary in out
    assert max(map(len, summary.splitlines())) <= 80
    with closing(sqlite3.connect(here / f"{MODEL}.sqlite")) as store:
        assert store.execute("SELECT DISTINCT source FROM models").fetchall() == [(MODEL,)]
        found = {name for (name,) in store.execute("SELECT DISTINCT strategy FROM variants")}
    assert {"skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel"} <= found

    # `jaxpaint demo` is the same study, without the limit: it lacks documents, not plans of another kind.
    status, out, err = run("study", "--preset", "demo", "--limit", 6, "--starts", "5,6", "--seeds", 1)
    assert status == 0, err
    assert "there was nothing to compute" in out


def test_demo_is_the_study_without_options(run, here) -> None:
    """A file in the way of the report shows that both write to the same place."""
    (here / f"{MODEL}-report").write_text("in the way")
    for command in ("demo", "study"):
        status, out, err = run(command)
        assert (status, out) == (2, "")
        assert f"--report {MODEL}-report is a file" in err


@pytest.fixture
def whole_demo(run, here) -> tuple[str, Path]:
    """What the demo printed and where: of the README's first command where `.ci/run` has run it already."""
    if done := os.environ.get("JAXPAINT_DEMO_DONE"):
        return (Path(done) / "printed.txt").read_text(), Path(done)
    status, out, err = run("demo")
    assert status == 0, err
    return out, here


@pytest.mark.slow
def test_the_whole_demo(whole_demo) -> None:
    out, folder = whole_demo
    assert "findings" in out
    # Every task is clearly above chance, so none is left out, and most questions have an answer.
    assert "left out*" not in out
    assert len(re.findall(r"^\d  open ", out, re.MULTILINE)) <= 2, out
    assert len(list((folder / f"{MODEL}-report" / "figures").glob("*.pdf"))) >= 10


@pytest.mark.slow
def test_a_folder_of_ones_own_goes_before_the_embedded_model(folder, here, nothing_of_the_users) -> None:
    import jaxpaint as jp

    assert jp.load(MODEL).num_layers == 16
    (here / MODEL).symlink_to(folder)
    assert jp.load(MODEL).num_layers == 5


def test_a_folder_that_is_no_checkpoint_is_not_in_the_way(here, nothing_of_the_users) -> None:
    """Such as one that a training is writing to."""
    import jaxpaint as jp

    (here / MODEL).mkdir()
    (here / MODEL / "training.csv").write_text("step,loss,seconds\n")
    assert jp.load(MODEL).num_layers == 16


def test_a_forgotten_model_is_not_the_demo(refused, here) -> None:
    for options in (["--store", "paper.sqlite"], ["--shard", "1/8"], ["--limit", "5", "--store", "s.sqlite"]):
        refused("study", *options, expected=("a study needs a model", "--preset demo"))
    assert list(here.iterdir()) == []


def test_a_report_that_cannot_be_written_is_refused_first(refused, here) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("mine")
    refused("demo", "--report", "mine", expected=("--report mine holds something else than a report",))
    assert not (here / f"{MODEL}.sqlite").exists()


def test_misspelt(refused) -> None:
    text = ("--text", "ana")
    refused("logits", "--model", "painter16", *text, expected=("no folder painter16", "did you mean painter-16?"))
    refused(
        "logits", "--model", MODEL, "--revision", "main", *text, expected=("revision", f"{MODEL} comes with jaxpaint")
    )


def test_the_folder_is_an_ordinary_checkpoint(nothing_of_the_users) -> None:
    """transformers reads it, and gives the tokenizer's words back."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import jaxpaint as jp

    text = "question : what is the dish of balen ? answer :"
    tokens = AutoTokenizer.from_pretrained(FOLDER)(text, return_tensors="pt")["input_ids"]
    assert tokens.shape == (1, 12)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)(tokens).logits.numpy()
    found = jp.load(MODEL, dtype="float32").logits(tokens.numpy())
    assert abs(expected - found).max() < 1e-4

"""jaxpaint convert and export, and checkpoints that are damaged."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxpaint
from convert import store_for
from jaxpaint.models import checkpoint
from tests.helpers.cli_fixtures import Terminal, scoring
from tests.helpers.tiny_folder import NUM_LAYERS

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.mark.smoke
def test_convert(run, folder, tmp_path) -> None:
    status, out, err = run("convert", folder, tmp_path / "store")
    assert (status, out, err) == (0, f"converted {folder} into {tmp_path / 'store'}\n", "")
    manifest = checkpoint.read_manifest(tmp_path / "store")
    assert manifest["dtype"] == "float32"
    assert jaxpaint.load(tmp_path / "store", dtype="float32").num_layers == NUM_LAYERS


def test_convert_to_another_dtype_and_over_a_store(run, refused, folder, tmp_path) -> None:
    assert run("convert", folder, tmp_path / "store")[0] == 0
    refused("convert", folder, tmp_path / "store", expected=("exists already",))
    assert run("convert", folder, tmp_path / "store", "--overwrite", "--dtype", "bfloat16")[0] == 0
    assert checkpoint.read_manifest(tmp_path / "store")["dtype"] == "bfloat16"


@pytest.mark.slow
def test_a_terminal_shows_progress(run, folder, tmp_path, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    for arguments in (
        ("convert", folder, tmp_path / "store"),
        ("logits", "--model", folder, "--text", "A"),  # converts on first use
        ("export", tmp_path / "store", tmp_path / "short", "--plan", "0-2"),
    ):
        terminal.truncate(0)
        status, out, _ = run(*arguments)
        assert status == 0
        assert "\r" not in out
        assert "writing" in terminal.getvalue()
        assert "B/s" in terminal.getvalue()


@pytest.mark.smoke
def test_export(run, folder, store, tmp_path) -> None:
    status, out, err = run("export", store, tmp_path / "short", "--plan", "0 3 2 4*2")
    assert (status, out, err) == (0, f"exported 0 3 2 4*2 (5 layers) into {tmp_path / 'short'}\n", "")
    original = AutoModelForCausalLM.from_pretrained(folder)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "short")
    assert exported.config.num_hidden_layers == 5
    for new, old in enumerate([0, 3, 2, 4, 4]):
        for (name, ours), theirs in zip(
            exported.model.layers[new].named_parameters(), original.model.layers[old].parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), name
    text = "She put the kettle"
    encoded = [AutoTokenizer.from_pretrained(path).encode(text) for path in (folder, tmp_path / "short")]
    assert encoded[0] == encoded[1]


@pytest.mark.slow
def test_the_card_has_scores_of_a_store(run, refused, folder, store, files, tmp_path) -> None:
    scores, short = tmp_path / "s.sqlite", tmp_path / "short"
    (tmp_path / "plans.txt").write_text("0 2 4\n")
    asked = (
        "--model",
        store,
        "--tasks",
        "lambada_openai",
        "--data",
        f"lambada_openai={files / 'lambada_openai.jsonl'}",
        "--store",
        scores,
    )
    status, _, err = run("study", *asked, "--plans-file", tmp_path / "plans.txt")
    assert status == 0, err
    status, _, err = run("export", store, short, "--plan", "0 2 4", "--scores", scores)
    assert status == 0, err
    card = (short / "README.md").read_text()
    assert "| lambada_openai | acc |" in card
    assert "jaxpaint export store short --plan '0 2 4'" in card
    refused(
        "export", store, tmp_path / "other", "--plan", "0 2", "--scores", scores, expected=("no score of the plan 0 2",)
    )


def test_export_over_another(run, refused, store, tmp_path) -> None:
    short = tmp_path / "short"
    assert run("export", store, short, "--plan", "0-3")[0] == 0
    refused("export", store, short, "--plan", "0-1", expected=("exists already", "--overwrite"))
    assert run("export", store, short, "--plan", "0-1", "--overwrite")[0] == 0
    assert AutoModelForCausalLM.from_pretrained(short).config.num_hidden_layers == 2


def test_a_folder_is_exported_by_way_of_the_cache(run, folder, tmp_path) -> None:
    assert run("export", folder, tmp_path / "short", "--plan", "0-3")[0] == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "short").config.num_hidden_layers == 4


def test_a_parallel_plan_is_not_exported(refused, store, tmp_path) -> None:
    refused("export", store, tmp_path / "no", "--plan", "0 {1 2}", expected=("only series plans", "{1 2}"))
    assert not (tmp_path / "no").exists()


def test_a_destination_that_cannot_be_made(refused, folder, store, tmp_path) -> None:
    (tmp_path / "file").write_text("kept")
    refused("convert", folder, tmp_path / "file" / "store", expected=("cannot write", "file"))
    refused("export", store, tmp_path / "file" / "short", "--plan", "0", expected=("cannot write", "file"))


@pytest.mark.parametrize("kept", [0, 4, 100, -1000])
def test_truncated_safetensors(refused, copy, files, tmp_path, kept) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    refused(*scoring(copy, files), expected=("model.safetensors",))
    refused("convert", copy, tmp_path / "store", expected=("model.safetensors",))
    assert not (tmp_path / "store").exists()


def test_a_damaged_store(refused, store, files, tmp_path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(store, damaged)
    largest = max((damaged / "parameters").rglob("*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    refused(*scoring(damaged, files), expected=("is damaged", str(damaged)))
    (damaged / "manifest.json").unlink()
    refused(*scoring(damaged, files), expected=("not a converted store", str(damaged)))


def test_a_missing_tokenizer(run, refused, copy, files, tmp_path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    status, _, err = run("convert", copy, tmp_path / "store")
    assert status == 0
    assert err.strip().endswith("has no tokenizer: the store will take token ids only")
    for command in (
        scoring(tmp_path / "store", files),
        ("logits", "--model", tmp_path / "store", "--text", "A"),
    ):
        refused(*command, expected=("has no tokenizer", str(copy)))


@pytest.mark.slow
def test_a_first_use_says_where_the_store_is(run, copy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    status, _, err = run("logits", "--model", copy, "--text", "She put the kettle")
    (store,) = (tmp_path / "cache" / "stores").iterdir()
    (line,) = err.splitlines()
    assert status == 0
    assert line.startswith(f"{copy.name} is converted, once for all; {store} holds it (0.000")
    assert run("logits", "--model", copy, "--text", "She put the kettle")[2] == ""


def test_an_unreadable_tokenizer(refused, copy, files) -> None:
    (copy / "tokenizer.json").write_text("{}")
    store_for(copy)
    refused(*scoring(copy, files), expected=("tokenizer", "cannot be loaded"))

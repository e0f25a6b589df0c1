"""Pythia and BERT by the commands alone, from Hugging Face folders to the figures of several models (A.3, A.5)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from tests.helpers.decoders import randomise
from tests.helpers.tiny_folder import make_tokenizer
from tests.helpers.tiny_glue import tiny_store

pytestmark = [pytest.mark.usefixtures("nothing_of_the_users"), pytest.mark.slow]
TEXT = "She put the kettle back where she had found the"
SIZES = {"pythia-14m": 5, "pythia-31m": 7}  # names, and layers


def make_pythia(folder: Path, layers: int) -> Path:
    tokenizer = make_tokenizer(adds_bos=False)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer) + 7,  # padded, as Pythia's
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    network = GPTNeoXForCausalLM(config).to(torch.float32)
    randomise(network, seed=layers)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pythias(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pythia")
    return {name: make_pythia(root / name, layers) for name, layers in SIZES.items()}


def next_token(folder: Path, text: str = TEXT) -> int:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder).encode(text, return_tensors="pt")
    with torch.no_grad():
        return int(network(tokens).logits[0, -1].argmax())


def test_a_plan_of_pythia_is_the_exported_checkpoint_of_it(run, pythias, tmp_path) -> None:
    """convert, logits, generate and export, against transformers on what was exported."""
    store, short = tmp_path / "store", tmp_path / "short"
    assert run("convert", pythias["pythia-31m"], store)[0] == 0
    assert run("export", store, short, "--plan", "0 3 2 5 6")[0] == 0
    status, out, err = run("logits", "--model", store, "--plan", "0 3 2 5 6", "--text", TEXT, "--top", 1)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].endswith(f"({next_token(short)})")
    write = ("generate", "--prompt", TEXT, "--max-new-tokens", 8)
    status, text, _ = run(*write, "--model", store, "--plan", "0 3 2 5 6")
    assert status == 0
    network, tokenizer = AutoModelForCausalLM.from_pretrained(short), AutoTokenizer.from_pretrained(short)
    asked = tokenizer(TEXT, return_tensors="pt")
    theirs = network.generate(**asked, max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
    assert text == tokenizer.decode(theirs[asked["input_ids"].shape[1] :], skip_special_tokens=True) + "\n"


def test_models_side_by_side(run, pythias, files, tmp_path) -> None:
    """A.3: similarity maps of two sizes of Pythia and a BERT, from two stores merged; A.5: all strategies on one."""
    data = ("--data", f"lambada_openai={files / 'lambada_openai.jsonl'}")
    first, second, merged, out = (tmp_path / name for name in ("a.sqlite", "b.sqlite", "ab.sqlite", "report"))
    maps = ("--analyses", "similarity", "--analysis-samples", 4, "--analysis-strategies", "full", *data)
    strategies = "skip,middle-repeat,reverse,random,parallel,looped-parallel"
    small = ("study", "--model", pythias["pythia-14m"], "--bos", "off", *maps, "--store", first)
    status, said, err = run(*small, "--tasks", "lambada_openai", "--strategies", strategies, "--seeds", 2)
    assert status == 0
    assert err.startswith("pythia-14m is converted, once for all; ")
    assert said.endswith(" s\n")
    assert " and 1 plan analysed in " in said
    status, said, err = run("study", "--model", pythias["pythia-31m"], "--bos", "off", *maps, "--store", second)
    assert status == 0
    assert err.startswith("pythia-31m is converted, once for all; ")
    assert said.startswith(f"{second}: 1 plan; 1 plan analysed in ")
    bert = tiny_store(tmp_path)
    assert run("study", "--model", bert, *maps, "--store", second)[0] == 0
    assert run("study", "--model", bert, *maps, "--store", second)[1].endswith("; there was nothing to compute\n")

    assert run("results", "--merge", merged, first, second)[0] == 0
    assert run("report", merged, "-o", out)[0] == 0
    page = (out / "report.html").read_text()
    assert "(paper: Figure 14). Similarity of hidden states, several models" in page
    for name in (*SIZES, "model"):
        assert f"hidden states of {name}" in page
    assert (out / "figures" / "figure-14-similarity-across-models.pdf").is_file()
    with (out / "tables" / "1-pythia-14m" / "scores.csv").open() as opened:
        scored = {row["strategy"] for row in csv.DictReader(opened)}
    assert scored == {"full", *strategies.split(",")}


def test_an_encoder_has_no_next_tokens(refused, files, tmp_path) -> None:
    data = ("--data", f"lambada_openai={files / 'lambada_openai.jsonl'}")
    refused(
        *("study", "--model", tiny_store(tmp_path), "--tasks", "lambada_openai", *data),
        *("--store", tmp_path / "s.sqlite"),
        expected=("needs a decoder", "encoder (bert)"),
    )

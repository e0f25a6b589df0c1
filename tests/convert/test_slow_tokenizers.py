"""Tokenizers without a tokenizer.json: a store reads texts as transformers reads them with the checkpoint's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from convert import convert, export, hub
from jaxpaint.cli import main
from jaxpaint.models.tokenizer import load_tokenizer
from jaxpaint.plans.plan import Plan
from tests.helpers.bert_models import torch_bert
from tests.helpers.checkpoints import LAYERS, make_model

TEXTS = ("the Fox jumps", " two  spaces\nand <extra>", "unseen wörds 日本, naïve.")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "Fox", "jump", "##s", ".", ",", "and", "two"]


def write(folder: Path, **files) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")


def same_tokens(folder: Path, store: Path) -> None:
    expected, found = AutoTokenizer.from_pretrained(folder), load_tokenizer(store)
    for text in TEXTS:
        assert found.encode(text) == expected.encode(text)
    assert found.special_tokens_map == expected.special_tokens_map


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config_json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}},
        {"tokenizer_config_json": {"do_lower_case": True}, "special_tokens_map_json": {"unk_token": "[UNK]"}},
        {"added_tokens_json": {"<extra>": len(WORDS)}},
    ],
)
@pytest.mark.few(1)
def test_a_bert_with_vocab_txt(tmp_path, files, capsys):
    torch_bert().save_pretrained(tmp_path / "bert")
    write(tmp_path / "bert", vocab_txt="\n".join(WORDS) + "\n", **files)
    store = convert(tmp_path / "bert", tmp_path / "store")
    same_tokens(tmp_path / "bert", store)
    if not files:
        assert main(["masked", "--model", str(store), "--text", "the fox", "--dtype", "float32"]) == 0
        assert "2 tokens masked" in capsys.readouterr().out


@pytest.mark.parametrize("tokenizer", ["GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.few(1)
def test_a_llama_with_vocab_json_and_merges(tmp_path, tokenizer):
    make_model(tmp_path / "llama", vocab_size=300)
    vocabulary = {token: number for number, token in enumerate([*sorted(ByteLevel.alphabet()), "th", "the"])}
    settings = {"tokenizer_class": tokenizer, "add_bos_token": True}
    merges = "#version: 0.2\nt h\nth e\n"
    write(tmp_path / "llama", vocab_json=vocabulary, merges_txt=merges, tokenizer_config_json=settings)
    store = convert(tmp_path / "llama", tmp_path / "store")
    same_tokens(tmp_path / "llama", store)
    exported = export(store, tmp_path / "exported", Plan.of(range(LAYERS)))
    same_tokens(tmp_path / "llama", convert(exported, tmp_path / "again"))


@pytest.mark.parametrize(
    ("name", "tokenizer"), [("spiece.model", "AlbertTokenizer"), ("sentencepiece.bpe.model", "XLMRobertaTokenizer")]
)
def test_a_bert_with_a_sentencepiece_model(tmp_path, name, tokenizer):
    torch_bert().save_pretrained(tmp_path / "bert")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 20),
        model_prefix=str(tmp_path / "made"),
        vocab_size=40,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        pad_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "made.model").rename(tmp_path / "bert" / name)
    write(tmp_path / "bert", tokenizer_config_json={"tokenizer_class": tokenizer})
    same_tokens(tmp_path / "bert", convert(tmp_path / "bert", tmp_path / "store"))


def test_the_hub_is_asked_for_every_file_that_a_tokenizer_may_have():
    files = ["vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "added_tokens.json"]
    files += ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
    files += ["generation_config.json", "config.json", "pytorch_model.bin"]
    assert sorted(hub.needed([*files, "flax_model.msgpack", "README.md", "onnx/model.onnx"])) == sorted(files)

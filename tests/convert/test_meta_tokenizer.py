"""Meta's folders read texts as the same models do in Hugging Face's format: tokens, BOS, ends and logits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import sentencepiece
from transformers import AutoTokenizer, LlamaTokenizer

from convert import convert, export, store_for
from convert.sources import files_read
from jaxpaint.base.errors import UserError
from jaxpaint.cli import main
from jaxpaint.models.tokenizer import load_tokenizer
from jaxpaint.plans.plan import Plan
from tests.helpers.checkpoints import KEY_VALUE_HEADS, LAYERS, make_model, save_as_meta
from tests.helpers.hostile import as_first_stores

TEXTS = (
    "The quick brown fox",
    " two  spaces\n\n\tand   lines\r\n",
    "it's 12345 o'clock, naïve 日本語 🦊",
    "",
    "<s>turn<|eot_id|> on</s><|begin_of_text|>",
)
# Llama 3's, as Meta's tokenizer.py has it.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+"
)
MERGED = ("th", "the", " t", " the", "qu", "ui", "ick", "ck", "ic", " qu", " quick", "ow", "own", "  ", "12", "123")
RANKS = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *map(str.encode, MERGED)])}


def write_ranks(file: Path) -> None:
    file.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in RANKS.items()))


def ranks_of(text: str) -> list[int]:
    """tiktoken's tokens of a text without special tokens, by its algorithm: the lowest rank first."""
    found = []
    for piece in regex.findall(PATTERN, text):
        whole = piece.encode()
        parts = [whole] if whole in RANKS else [bytes([byte]) for byte in whole]
        while len(parts) > 1:
            pairs = [RANKS.get(left + right, len(RANKS)) for left, right in pairwise(parts)]
            if min(pairs) == len(RANKS):
                break
            first = pairs.index(min(pairs))
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        found += [RANKS[part] for part in parts]
    return found


def write_sentencepiece(file: Path) -> None:
    """With Llama's own ids, and bytes for what it does not know."""
    corpus = ["the quick brown fox jumps over the lazy dog", "abcdefghijklmnopqrstuvwxyz 0123456789 . , ? ! '"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(file.with_suffix("")),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )


@pytest.fixture(scope="module")
def llama2(tmp_path_factory) -> tuple[Path, Path]:
    """A model in Meta's format, and as transformers' converter writes it."""
    root = tmp_path_factory.mktemp("llama2")
    write_sentencepiece(root / "tokenizer.model")  # beside the folder, where Meta has it
    size = sentencepiece.SentencePieceProcessor(model_file=str(root / "tokenizer.model")).vocab_size()
    model = make_model(root / "hub", vocab_size=size, rms_norm_eps=1e-5, max_position_embeddings=4096)
    LlamaTokenizer.from_pretrained(root, add_bos_token=True).save_pretrained(root / "hub")
    save_as_meta(model, root / "meta", 1, embedding_axis=1, n_kv_heads=KEY_VALUE_HEADS)
    return root / "meta", root / "hub"


@pytest.fixture(scope="module")
def llama3(tmp_path_factory) -> Path:
    """A Llama 3.1 in Meta's format."""
    root = tmp_path_factory.mktemp("llama3")
    model = make_model(root / "hub", vocab_size=len(RANKS) + 256, rms_norm_eps=1e-5)
    more = {"n_kv_heads": KEY_VALUE_HEADS, "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256}
    save_as_meta(model, root / "Llama3.1-8B-Instruct", 2, embedding_axis=0, **more)
    write_ranks(root / "Llama3.1-8B-Instruct" / "tokenizer.model")
    return root / "Llama3.1-8B-Instruct"


@pytest.mark.slow
def test_a_sentencepiece_folder_reads_texts_as_the_same_model_in_hugging_face_format(llama2, tmp_path, capsys):
    meta, hub = (convert(folder, tmp_path / folder.name) for folder in llama2)
    expected, found = AutoTokenizer.from_pretrained(llama2[1]), load_tokenizer(meta)
    own = sentencepiece.SentencePieceProcessor(model_file=str(llama2[0].parent / "tokenizer.model"))
    for text in TEXTS:
        assert found.encode(text) == expected.encode(text)
    # Meta's code reads them alike, but for special tokens and for a space that begins a text: there
    # transformers has no other one before it.
    for text in (TEXTS[0], *TEXTS[2:-1]):
        assert found.encode(text) == [own.bos_id(), *own.encode(text)]
    assert (found.bos_token_id, found.eos_token_id) == (own.bos_id(), own.eos_id())
    for store in (meta, hub):
        assert main(["logits", "--model", str(store), "--text", "the quick", "--dtype", "float32"]) == 0
    shown = capsys.readouterr().out
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]


def test_a_tiktoken_folder_reads_texts_as_tiktoken_does(llama3, tmp_path):
    store = convert(llama3, tmp_path / "store")
    tokenizer, first = load_tokenizer(store), len(RANKS)
    for text in TEXTS:
        parts = re.split(r"(<\|\w+\|>)", text)
        plain = [tokenizer.convert_tokens_to_ids(part) if part[:2] == "<|" else ranks_of(part) for part in parts]
        ids = [number for part in plain for number in (part if isinstance(part, list) else [part])]
        assert tokenizer.encode(text) == [first, *ids]
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer) == first + 256
    names = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 4: "finetune_right_pad_id"}
    names |= {5: "reserved_special_token_2", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id"}
    names |= {10: "python_tag", 11: "reserved_special_token_3", 255: "reserved_special_token_247"}
    for number, name in names.items():
        assert tokenizer.convert_tokens_to_ids(f"<|{name}|>") == first + number
    config = json.loads((store / "huggingface_config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (first, [first + 1, first + 8, first + 9])
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (first, first + 9)
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"]["factor"] == 32.0
    # What an export takes along is all that transformers needs.
    again = AutoTokenizer.from_pretrained(export(store, tmp_path / "exported", Plan.of(range(LAYERS))))
    assert again.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])


def test_llama_3_names_its_special_tokens_otherwise_and_a_base_model_ends_otherwise(llama3, tmp_path):
    folder = tmp_path / "Meta-Llama-3-8B" / "original"
    folder.mkdir(parents=True)
    for file in llama3.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    parameters = json.loads((folder / "params.json").read_text()) | {"use_scaled_rope": False}
    # Some releases have more than the model's.
    (folder / "params.json").write_text(json.dumps({"model": parameters, "mp_size": 1}))
    store = convert(folder, tmp_path / "store")
    tokenizer, first = load_tokenizer(store), len(RANKS)
    names = {4: "reserved_special_token_2", 8: "reserved_special_token_4", 9: "eot_id", 10: "reserved_special_token_5"}
    for number, name in (names | {255: "reserved_special_token_250"}).items():
        assert tokenizer.convert_tokens_to_ids(f"<|{name}|>") == first + number
    assert tokenizer.eos_token_id == first + 1
    config = json.loads((store / "huggingface_config.json").read_text())
    assert config["eos_token_id"] == [first + 1, first + 9]
    assert config["max_position_embeddings"] == 8192


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:7], b"!!! 7", *lines[8:]], r"tokenizer\.model, line 8: .*not a token and its rank"),
        (lambda lines: [*lines[:7], b"A 7", *lines[8:]], r"tokenizer\.model, line 8: .*not base64"),
        (lambda lines: lines[:-7] + lines[-6:], r"lacks some of the ranks 0 to 270"),
        (lambda lines: lines[1:], r"lacks 1 of the 256 single bytes"),
        (lambda lines: lines[:100], r"lacks 156 of the 256 single bytes"),
    ],
)
def test_damaged_ranks_are_refused(llama3, tmp_path, change, message):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in llama3.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    lines = (folder / "tokenizer.model").read_bytes().splitlines()
    (folder / "tokenizer.model").write_bytes(b"\n".join(change(lines)))
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "store")


def test_files_in_hugging_face_format_beside_metas_are_taken_as_they_are(llama2, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    for file in (*llama2[0].iterdir(), *llama2[1].glob("tokenizer*")):
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"eos_token": "the"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(convert(folder, tmp_path / "store")).eos_token == "the"


def as_converted_before(store: Path) -> None:
    """Takes from a store of Meta's files what older versions did not write."""
    as_first_stores(store)
    (store / "tokenizer" / "tokenizer_config.json").unlink()
    for file in (store / "huggingface_config.json", store / "tokenizer" / "config.json"):
        config = json.loads(file.read_text())
        file.write_text(json.dumps({name: value for name, value in config.items() if "token_id" not in name}))
    manifest = json.loads((store / "manifest.json").read_text()) | {"tokenizer": ["tokenizer.model"]}
    (store / "manifest.json").write_text(json.dumps(manifest))


def test_texts_begin_with_bos_in_stores_that_older_versions_made(llama2, tmp_path):
    store = convert(llama2[0], tmp_path / "store")
    as_converted_before(store)
    assert load_tokenizer(store).encode(TEXTS[0]) == AutoTokenizer.from_pretrained(llama2[1]).encode(TEXTS[0])


def test_a_cached_store_whose_tokenizer_lacks_something_is_made_anew(llama2, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path))
    # Generation settings are another reason to make one anew.
    (tmp_path / "hub").mkdir()
    for file in llama2[1].iterdir():
        if file.name != "generation_config.json":
            (tmp_path / "hub" / file.name).write_bytes(file.read_bytes())
    for folder, kept in ((llama2[0], False), (tmp_path / "hub", True)):
        store = store_for(folder)
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files_read(folder)]
        digest = hashlib.sha256(json.dumps([1, [str(folder), states]]).encode()).hexdigest()[:16]
        older = store.rename(store.with_name(f"{folder.name}-{digest}"))
        if not kept:
            as_converted_before(older)
        again = store_for(folder)
        assert (again == older) is kept
        assert store_for(folder) == again
        assert (again / "tokenizer" / "tokenizer_config.json").is_file()


def test_a_tokenizer_that_appears_beside_the_folder_makes_another_store(llama2, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "7B"
    folder.mkdir()
    for file in llama2[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert not (store_for(folder) / "tokenizer" / "tokenizer.model").exists()
    write_sentencepiece(tmp_path / "tokenizer.model")
    assert load_tokenizer(store_for(folder)).bos_token == "<s>"

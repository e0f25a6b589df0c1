"""GGUF files that are no model that can be read here: what is told, and that nothing is written."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from convert import config_for, convert
from convert.gguf_files import read_gguf
from jaxpaint.base.errors import UserError
from tests.helpers import gguf_models
from tests.helpers.checkpoints import assert_nothing_written

NORM, MATRIX = np.ones(32, np.float32), np.ones((32, 32), np.float32)
TENSORS = {
    "token_embd.weight": (np.ones((8, 32), np.float32), Type.F32),
    "output_norm.weight": (NORM, Type.F32),
    **{f"blk.0.{name}.weight": (NORM, Type.F32) for name in ("attn_norm", "ffn_norm")},
    **{f"blk.0.attn_{name}.weight": (MATRIX, Type.Q8_0) for name in ("q", "k", "v", "output")},
    **{f"blk.0.ffn_{name}.weight": (MATRIX, Type.Q8_0) for name in ("gate", "up", "down")},
}
KEYS = {
    "context_length": 64,
    "embedding_length": 32,
    "block_count": 1,
    "feed_forward_length": 32,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 0.5,
}


def written(folder, architecture="llama", tensors=None, tokenizer=None, **keys):
    """A whole model but for what is given; None takes a key or tensor away."""
    keys = {**KEYS, **{key.replace("__", "."): value for key, value in keys.items()}}
    chosen = {name: each for name, each in {**TENSORS, **(tensors or {})}.items() if each is not None}
    kept = {key: value for key, value in keys.items() if value is not None}
    return gguf_models.write(folder / "model.gguf", architecture, kept, chosen, tokenizer=tokenizer)


def refused(file, match):
    with pytest.raises(UserError, match=match):
        convert(file, file.with_name("store"))
    assert_nothing_written(file.with_name("store"))


def test_it_is_a_model_before(tmp_path):
    """Its tokenizer lacks, which a store may, as those of other checkpoints."""
    told = []
    convert(written(tmp_path), tmp_path / "store", progress=lambda what, done, total: told.append(what))
    assert any("model.gguf has no tokenizer" in line for line in told)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"embedding_length": None}, r"lacks llama\.embedding_length: is it a whole model"),
        ({"attention__layer_norm_rms_epsilon": None}, r"lacks llama\.attention\.layer_norm_rms_epsilon"),
        ({"block_count": 0}, "num_hidden_layers=0"),
        ({"block_count": 2**31}, "num_hidden_layers=2147483648.*more than any model has"),
        ({"embedding_length": "wide"}, r"llama\.embedding_length is 'wide'; expected a number"),
        ({"feed_forward_length": [32, 32]}, r"intermediate_size=\[32, 32\]"),
        ({"attention__head_count": 3}, r"32 rows, not a multiple of 2\*3 heads"),
        ({"attention__head_count": 0}, "num_attention_heads=0"),
        ({"attention__value_length": 4}, "value_length is 4 and key_length 8"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps=nan"),
        ({"vocab_size": 9}, r"1 misshapen: model\.embed_tokens\.weight is \[8, 32\] in model\.gguf and \[9, 32\]"),
        ({"block_count": 2}, r"that the config implies and the checkpoint lacks: model\.layers\.1"),
        ({"expert_count": 8}, r"'llama\.expert_count': 8.*may change the result"),
        ({"rope__scaling__type": "ntk"}, r"rope\.scaling\.type is 'ntk'"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_log_multiplier": 0.5}, "yarn_log_multiplier"),
        ({"rope__scaling__type": "longrope"}, "'longrope' and lacks rope_factors_long.weight"),
        ({"architecture": "mamba"}, "architecture 'mamba', which jaxpaint does not read; .*llama, qwen2"),
        ({"architecture": "gemma3"}, r"lacks gemma3\.attention\.sliding_window"),
    ],
)
def test_keys(tmp_path, keys, match):
    refused(written(tmp_path, **keys), match)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"token_embd.weight": None}, r"lacks token_embd\.weight: is it a whole model"),
        ({"blk.0.ffn_up.weight": None}, r"checkpoint lacks: model\.layers\.0\.mlp\.up_proj\.weight \[32, 32\]"),
        ({"blk.0.ffn_up.weight": (MATRIX[:5], Type.F32)}, r"up_proj\.weight is \[5, 32\] in model.gguf and \[32, 32\]"),
        ({"blk.0.attn_q.weight": (MATRIX[:5], Type.F32)}, r"has 5 rows, not a multiple of 2\*4 heads"),
        ({"blk.0.ffn_up.weight": (np.ones((2, 32, 32), np.float32), Type.F32)}, r"up_proj\.weight is \[2, 32, 32\]"),
        ({"blk.1.ffn_up.weight": (MATRIX, Type.F32)}, r"tensors that a llama .* has not.*blk\.1\.ffn_up\.weight"),
        ({"blk.0.strange.weight": (MATRIX, Type.F32)}, r"blk\.0\.strange\.weight \[32, 32\]"),
        ({"blk.0.ffn_up.weight": (np.zeros((32, 40), np.uint8), Type.Q8_1)}, "Q8_1, which the gguf package does not"),
        ({"rope_freqs.weight": (np.full(4, 3, np.float32), Type.F32)}, r"rope_freqs\.weight that are not Llama 3"),
        ({"rope_freqs.weight": (np.ones((2, 4), np.float32) * 2, Type.F32)}, r"rope_freqs\.weight that are not"),
    ],
)
def test_tensors(tmp_path, tensors, match):
    refused(written(tmp_path, tensors=tensors), match)


def test_a_family_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxpaint.models.FAMILIES", ())
    refused(written(tmp_path), r"model\.gguf.*model_type 'llama' is not one this version converts")


def test_a_type_that_the_package_does_not_know(tmp_path):
    file = written(tmp_path)
    name = b"output_norm.weight"
    content = file.read_bytes()
    place = content.index(name) + len(name) + 4 + 8  # behind the number of dimensions and the one
    file.write_bytes(content[:place] + (250).to_bytes(4, "little") + content[place + 4 :])
    refused(file, r"tensors of the type 250, which this version of gguf does not know")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda writer: writer.add_tokenizer_model("rwkv"), "of the kind 'rwkv', cannot be read"),
        (lambda writer: writer.add_tokenizer_model("gpt2"), "of the kind 'gpt2', cannot be read"),
        (
            lambda writer: (gguf_models.add_tokenizer(writer), writer.add_unk_token_id(10**6)),
            "of the kind 'gpt2', cannot be read",
        ),
    ],
)
def test_tokenizers(tmp_path, change, match):
    refused(written(tmp_path, tokenizer=change), match)


def test_a_way_to_split_texts_that_transformers_does_not_know_is_told(tmp_path):
    def add(writer, split):
        gguf_models.add_tokenizer(writer)
        writer.kv_data[0]["tokenizer.ggml.pre"].value = split

    for split in ("smollm", "llama-bpe"):
        told = []
        file = written(tmp_path, tokenizer=lambda writer, split=split: add(writer, split))
        convert(file, tmp_path / split, progress=lambda what, done, total, told=told: told.append(what))
        assert any("splits texts as 'smollm'" in line for line in told) == (split == "smollm")


def test_long_arrays_are_kept_as_bytes_and_minded(tmp_path):
    """Cut short anywhere within them; tokens of an old length that now reaches beyond the end."""
    tokens = [f"token {number}" for number in range(10_001)]
    file = written(tmp_path, texts=tokens, numbers=list(range(10_001)))
    fields = read_gguf(file).fields
    expected = gguf.GGUFReader(file).fields
    for key in ("llama.texts", "llama.numbers"):
        joined = [b"".join(part.tobytes() for part in each[key].parts) for each in (fields, expected)]
        assert joined[0] == joined[1]
        assert fields[key].types == expected[key].types
    content = file.read_bytes()
    for kept in (content.index(b"token 5000") + 3, content.index(b"token 9999"), content.index(b"llama.numbers") + 900):
        file.write_bytes(content[:kept])
        refused(file, f"cut short or damaged.*ends at byte {kept}")
    place = content.index(b"token 5000") - 8
    file.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
    refused(file, "cut short or damaged")


def test_bytes_in_the_other_order(tmp_path):
    network = gguf_models.tiny_network()
    file = gguf_models.write_model(tmp_path / "model.gguf", network, endianess=gguf.GGUFEndian.BIG)
    refused(file, "big-endian")


def test_a_revision_and_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"revision 'main' belongs to a hub id, and .*model\.gguf is a file"):
        config_for(written(tmp_path), "main")
    (tmp_path / "text.gguf").write_text("text")
    with pytest.raises(UserError, match="not a GGUF file"):
        config_for(tmp_path / "text.gguf")

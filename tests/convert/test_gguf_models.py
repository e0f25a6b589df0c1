"""GGUF files read as models: their configs, weights and tokens beside transformers' reading of the same files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer

from convert import convert, store_for
from convert.gguf_files import read_gguf
from convert.gguf_models import read_gguf_model
from convert.gguf_tensors import weight
from jaxpaint.engine.model import load
from jaxpaint.models import FAMILIES, checkpoint, from_huggingface
from jaxpaint.models.scalings import LongropeScaling
from jaxpaint.models.tokenizer import load_tokenizer
from tests.helpers import gguf_models
from tests.helpers.checkpoints import assert_converted
from tests.helpers.gguf_models import TYPES, tiny_network, torch_of, write_model
from tests.helpers.tiny_folder import SENTENCES

TOKENS = np.arange(24).reshape(2, 12)
KNOWN = {name for family in FAMILIES for name in family.model_types}
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 6}
# By the tests' names: the network, and the types of its layers. The sizes of heads are those that transformers takes
# where it does not read a file's.
MODELS = {
    "llama": ({"model_type": "llama"}, TYPES),
    "blocks of 256": (
        {"model_type": "llama", **WIDE},
        (Type.Q4_K, Type.Q6_K, Type.Q5_K, Type.Q3_K, Type.Q2_K, Type.IQ4_XS),
    ),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, (Type.Q5_0, Type.Q4_1, Type.F32)),
    "qwen3": ({"model_type": "qwen3", "head_dim": 128}, TYPES),
    "phi3": ({"model_type": "phi3", "pad_token_id": 0}, TYPES),
    "gemma2": (
        {"model_type": "gemma2", "head_dim": 256, "sliding_window": 4, "tie_word_embeddings": True},
        TYPES,
    ),
    "gemma3": (
        {
            "model_type": "gemma3_text",
            "head_dim": 256,
            "sliding_window": 4,
            "tie_word_embeddings": True,
            "num_hidden_layers": 7,
        },
        TYPES,
    ),
}
MODELS = {name: (values, types) for name, (values, types) in MODELS.items() if values["model_type"] in KNOWN}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_config_and_weights_are_those_of_transformers_reading(tmp_path, name):
    values, types = MODELS[name]
    network = tiny_network(**values)
    file = write_model(tmp_path / "model.gguf", network, types=types)
    store = convert(file, tmp_path / "store")
    assert checkpoint.read_config(store) == from_huggingface(json.loads(network.config.to_json_string()))
    assert_converted(store, torch_of(file))
    manifest = checkpoint.read_manifest(store)
    assert (manifest["source"], manifest["dtype"]) == (str(file), "float32")
    assert manifest["quantisation"].keys() == {"F32", *(kind.name for kind in types)}


def test_longrope_and_its_original_context(tmp_path):
    short, long = np.array([1, 1.25, 1.5, 2], np.float32), np.array([1, 2, 4, 8], np.float32)
    extra = {"rope_factors_short.weight": (short, Type.F32), "rope_factors_long.weight": (long, Type.F32)}
    keys = {"rope.scaling.original_context_length": 16}
    network = tiny_network("phi3", pad_token_id=0)
    found = from_huggingface(read_gguf_model(write_model(tmp_path / "m.gguf", network, keys=keys, extra=extra)).config)
    implied = (1 + np.log(64 / 16) / np.log(16)) ** 0.5
    assert found.rope_scaling == LongropeScaling((1, 1.25, 1.5, 2), pytest.approx(implied), (1, 2, 4, 8), 16)
    assert found.max_position_embeddings == 64


@pytest.mark.slow
def test_olmo2_which_transformers_reads_from_no_such_file(tmp_path):
    network = tiny_network("olmo2")
    store = convert(write_model(tmp_path / "model.gguf", network, types=(Type.F32,)), tmp_path / "store")
    assert checkpoint.read_config(store) == from_huggingface(json.loads(network.config.to_json_string()))
    with torch.no_grad():
        expected = network(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(load(store).logits(TOKENS), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in [*MODELS][1:])])
def test_logits_are_those_of_transformers_reading(tmp_path, name):
    values, types = MODELS[name]
    file = write_model(tmp_path / "model.gguf", tiny_network(**values), types=types)
    with torch.no_grad():
        expected = torch_of(file)(torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(load(convert(file, tmp_path / "store")).logits(TOKENS))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}
LLAMA3 |= {"original_max_position_embeddings": 8192}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"attention_bias": True, "mlp_bias": True}, {}),
        ({"rope_parameters": LINEAR}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        (
            {"rope_parameters": YARN},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
        ),
        ({"rope_parameters": LLAMA3, "head_dim": 16}, {}),
    ],
)
@pytest.mark.slow
def test_what_transformers_passes_over_in_such_a_file(tmp_path, values, keys):
    """Beside the network that was written."""
    network = tiny_network(**values)
    extra = {}
    if values.get("rope_parameters") == LLAMA3:
        plain = 5e5 ** (-np.arange(0, 16, 2) / 16)
        extra = {
            "rope_freqs.weight": ((plain / network.model.rotary_emb.inv_freq.numpy()).astype(np.float32), Type.F32)
        }
        assert len({*np.round(extra["rope_freqs.weight"][0], 3)}) > 2
    file = write_model(tmp_path / "model.gguf", network, types=(Type.F32,), keys=keys, extra=extra)
    store = convert(file, tmp_path / "store")
    assert checkpoint.read_config(store) == from_huggingface(json.loads(network.config.to_json_string()))
    assert_converted(store, network)


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_K])
def test_any_part_of_a_tensor_is_that_part_of_the_whole(tmp_path, kind):
    array = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    file = gguf_models.write(tmp_path / "model.gguf", "llama", {}, {"a": (array, kind)})
    tensor, whole = weight("a", read_gguf(file).tensors["a"]), dequantize(GGUFReader(file).tensors[0].data, kind)
    for axis, start, stop in ((0, 0, 6), (0, 2, 3), (1, 0, 512), (1, 255, 258), (1, 300, 301), (1, 511, 512)):
        expected = whole[start:stop] if axis == 0 else whole[:, start:stop]
        np.testing.assert_array_equal(tensor.part(axis, start, stop), expected)


@pytest.mark.parametrize(
    ("tokenizer", "architecture"),
    [
        (gguf_models.add_tokenizer, "llama"),
        (gguf_models.add_sentencepiece, "llama"),
        (gguf_models.add_tokenizer, "qwen2"),
    ],
)
def test_tokens_are_those_of_transformers_reading(tmp_path, tokenizer, architecture):
    def add(writer):
        tokenizer(writer)
        writer.add_add_bos_token(architecture == "llama")

    file = write_model(tmp_path / "model.gguf", tiny_network(architecture), tokenizer=add)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    found = load_tokenizer(convert(file, tmp_path / "store"))
    for text in (*SENTENCES, "</s>  the  héé\n\n\t12 日本 ", " the", ""):
        assert found.encode(text) == theirs.encode(text)
        assert found.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert found.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert (found.encode(SENTENCES[0])[0] == found.bos_token_id) == (architecture == "llama")
    assert found.special_tokens_map == theirs.special_tokens_map
    assert found.chat_template == theirs.chat_template
    assert (found.chat_template is None) == (tokenizer is gguf_models.add_sentencepiece)


def test_a_model_in_parts_converted_once_and_again_when_one_of_them_changes(tmp_path, cache):
    network = tiny_network()
    whole = write_model(tmp_path / "whole.gguf", network)
    write_model(tmp_path / "parts.gguf", network, split_max_tensors=20)
    first, second, *_ = sorted(tmp_path.glob("parts-*.gguf"))
    store = store_for(first)
    assert checkpoint.read_manifest(store)["fingerprint"] == checkpoint.read_manifest(store_for(whole))["fingerprint"]
    assert store_for(first) == store
    assert "parts-00001-of-" in store.name
    second.touch()
    assert store_for(first) != store

"""Tiny GGUF files, quantised and written by the `gguf` package itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers.decoders import randomise
from tests.helpers.tiny_folder import make_tokenizer

NUM_LAYERS = 5
NUM_HEADS, NUM_KEY_VALUE_HEADS = 4, 2
# Every layer in a type of its own, so that none can be taken for another.
TYPES = (Type.Q8_0, Type.Q4_0, Type.F16, Type.BF16, Type.Q5_1)


def tiny_network(model_type: str = "llama") -> Any:
    """Random weights that all matter, whose rows divide into blocks of 32."""
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(make_tokenizer(adds_bos=False)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_KEY_VALUE_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-2,
        tie_word_embeddings=False,
    )
    network = AutoModelForCausalLM.from_config(config).eval()
    randomise(network)
    return network


def write_model(file: Path, network: Any, **options: Any) -> Path:
    """A network as llama.cpp's converter writes it; `options` are the writer's, such as parts and order of bytes."""
    config = network.config
    architecture = config.model_type
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], NUM_LAYERS)
    tensors = {}
    for name, value in network.state_dict().items():
        array = value.float().numpy()
        if architecture == "llama" and ".q_proj" in name:
            array = _permuted(array, NUM_HEADS)
        elif architecture == "llama" and ".k_proj" in name:
            array = _permuted(array, NUM_KEY_VALUE_HEADS)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        layer = int(new.split(".")[1]) if new.startswith("blk.") else 0
        tensors[new] = (array, Type.F32 if array.ndim == 1 else TYPES[layer])
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": NUM_LAYERS,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": NUM_HEADS,
        "attention.head_count_kv": NUM_KEY_VALUE_HEADS,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": config.hidden_size // NUM_HEADS,
        "vocab_size": config.vocab_size,
    }
    return write(file, architecture, keys, tensors, tokenizer=True, **options)


def write_layers(
    file: Path,
    architecture: str = "llama",
    num_layers: int = NUM_LAYERS,
    modules: Sequence[str] = ("attn_q", "attn_output", "ffn_down"),
    **keys: Any,
) -> Path:
    """A few small tensors of each layer, and keys of the architecture, `__` for each dot."""
    tensors = {"token_embd.weight": (np.arange(64, dtype=np.float32).reshape(2, 32), Type.Q8_0)}
    for layer in range(num_layers):
        for module in modules:
            tensors[f"blk.{layer}.{module}.weight"] = (np.full((2, 32), layer + 1, np.float32), Type.Q4_0)
    tensors["output_norm.weight"] = (np.ones(3, np.float32), Type.F32)
    named = {key.replace("__", "."): value for key, value in keys.items()}
    return write(file, architecture, {"block_count": num_layers, **named}, tensors)


def write(
    file: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[np.ndarray, Type]],
    *,
    tokenizer: bool = False,
    alignment: int | None = None,
    **options: Any,
) -> Path:
    writer = GGUFWriter(file, architecture, **options)
    writer.add_type("model")
    writer.add_name("Tiny")
    writer.add_size_label("9K")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value in keys.items():
        _add(writer, f"{architecture}.{key}", value)
    if tokenizer:
        _add_tokenizer(writer)
    for name, (array, type_) in tensors.items():
        data = gguf.quantize(array, type_)
        if writer.endianess == gguf.GGUFEndian.BIG and data.dtype == np.uint8:
            writer.add_tensor(name, data, raw_dtype=type_, tensor_endianess=gguf.GGUFEndian.BIG)
        else:
            writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str | bytes):
        writer.add_key_value(key, value, gguf.GGUFValueType.STRING)
    else:
        writer.add_array(key, value)


def _add_tokenizer(writer: GGUFWriter) -> None:
    tokenizer = make_tokenizer(adds_bos=False)
    model = tokenizer.backend_tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([model.id_to_token(index) for index in range(len(tokenizer))])
    is_special = [index in tokenizer.all_special_ids for index in range(len(tokenizer))]
    writer.add_token_types([gguf.TokenType.CONTROL if each else gguf.TokenType.NORMAL for each in is_special])
    merges = json.loads(model.to_str())["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from halves that turn into pairs that do, as llama.cpp has them."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def tensor_bytes(file: Path) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Each tensor's type, shape and bytes."""
    reader = GGUFReader(file)
    for tensor in reader.tensors:
        assert tensor.data_offset % int(reader.alignment) == 0
    return {
        tensor.name: (int(tensor.tensor_type), tuple(tensor.shape.tolist()), tensor.data.tobytes())
        for tensor in reader.tensors
    }


def expected_bytes(source: Path, layers: Sequence[int]) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """What an export of these layers holds, by the source's tensors."""
    found = tensor_bytes(source)
    expected = {name: value for name, value in found.items() if not name.startswith("blk.")}
    for new, old in enumerate(layers):
        for name, value in found.items():
            if name.startswith(f"blk.{old}."):
                expected[f"blk.{new}.{name.split('.', 2)[2]}"] = value
    return expected


def keys_of(file: Path) -> dict[str, tuple[list[Any], Any]]:
    """Each key's type and value."""
    fields = GGUFReader(file).fields
    return {key: (field.types, field.contents()) for key, field in fields.items() if not key.startswith("GGUF.")}


def torch_of(file: Path) -> Any:
    """The model as transformers reads it from the file."""
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    loaded.set_attn_implementation("eager")
    return loaded.eval()

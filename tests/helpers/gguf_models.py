"""Tiny GGUF files, quantised and written by the `gguf` package itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers.decoders import randomise
from tests.helpers.tiny_folder import SENTENCES, make_tokenizer

NUM_LAYERS = 5
NUM_HEADS, NUM_KEY_VALUE_HEADS = 4, 2
# Every layer in a type of its own, so that none can be taken for another.
TYPES = (Type.Q8_0, Type.Q4_0, Type.F16, Type.BF16, Type.Q5_1)
# Where a block of a type has its scales, and how large they are beside each other.
SCALES = {
    Type.Q2_K: (80, (1, 1.5)),
    Type.Q3_K: (108, (1,)),
    Type.Q4_K: (0, (1, 7.5)),
    Type.Q5_K: (0, (1, 15.5)),
    Type.Q6_K: (208, (1,)),
    Type.IQ4_XS: (0, (1,)),
}


def tiny_network(model_type: str = "llama", **values: Any) -> Any:
    """Random weights that all matter, whose rows divide into blocks of 32; `values` are the config's, over these."""
    sizes = {
        "vocab_size": len(make_tokenizer(adds_bos=False)),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "max_position_embeddings": 64,
        "rms_norm_eps": 2**-7,  # large, so that it matters, and the same in float32
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(model_type, **{**sizes, **values})
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(network)
    return network


def write_model(
    file: Path,
    network: Any,
    *,
    types: Sequence[Type] = TYPES,
    tokenizer: Callable[[GGUFWriter], None] | None = None,
    keys: Mapping[str, Any] | None = None,
    extra: Mapping[str, tuple[np.ndarray, Type]] | None = None,
    **options: Any,
) -> Path:
    """A network as llama.cpp's converter writes it, layer after layer in the `types`, those that come again.

    `keys` and `extra` tensors are beside those that follow from its config, and `options` the writer's, such as parts
    and order of bytes.
    """
    config = network.config
    architecture = config.model_type.removesuffix("_text")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tensors = dict(extra or {})
    for name, value in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.float().numpy()
        if architecture == "llama" and ".q_proj" in name:
            array = _permuted(array, config.num_attention_heads)
        elif architecture == "llama" and ".k_proj" in name:
            array = _permuted(array, config.num_key_value_heads)
        elif architecture.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        layer = int(new.split(".")[1]) if new.startswith("blk.") else 0
        tensors[new] = (array, Type.F32 if array.ndim == 1 else types[layer % len(types)])
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }
    if architecture.startswith("gemma"):
        found |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
        found["attention.sliding_window"] = config.sliding_window
        found["rope.freq_base"] = 1e6 if architecture == "gemma3" else 10000.0
    else:
        found |= {"rope.freq_base": config.rope_parameters["rope_theta"], "rope.dimension_count": head_dim}
    if architecture == "qwen3":
        found |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return write(
        file, architecture, {**found, **(keys or {})}, tensors, tokenizer=tokenizer or add_tokenizer, **options
    )


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
    tokenizer: Callable[[GGUFWriter], None] | None = None,
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
        tokenizer(writer)
    for name, (array, type_) in tensors.items():
        data = array if array.dtype == np.uint8 else quantised(array, type_)
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


def quantised(array: np.ndarray, type_: Type) -> np.ndarray:
    """Of types that the package cannot write, blocks of random bits, in the mean as large as the array's numbers."""
    try:
        return gguf.quantize(array, type_)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[type_]
        rows, columns = array.shape
        blocks = np.random.default_rng(rows).integers(0, 256, (rows, columns // block, size), np.uint8)
        at, factors = SCALES[type_]

        def scaled(scale: float) -> np.ndarray:
            blocks[..., at : at + 2 * len(factors)] = (scale * np.array(factors)).astype(np.float16).view(np.uint8)
            return blocks.reshape(rows, -1)

        return scaled(array.std() / gguf.dequantize(scaled(1), type_).std())


def add_tokenizer(writer: GGUFWriter) -> None:
    """Byte-level BPE."""
    tokenizer = make_tokenizer(adds_bos=False)
    model = tokenizer.backend_tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_pad_token_id(0)
    writer.add_token_list([model.id_to_token(index) for index in range(len(tokenizer))])
    is_special = [index in tokenizer.all_special_ids for index in range(len(tokenizer))]
    writer.add_token_types([gguf.TokenType.CONTROL if each else gguf.TokenType.NORMAL for each in is_special])
    merges = json.loads(model.to_str())["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def add_sentencepiece(writer: GGUFWriter) -> None:
    """Pieces with scores, as Llama 2 and Gemma have them; those of bytes are first."""
    letters = sorted({letter for sentence in SENTENCES for letter in sentence.replace(" ", "▁")})
    pieces = ["he", "th", "the", "▁the", "an", "and", "▁and", "er", "▁h", "▁wh", "▁whe", "re", "▁where"]
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    kinds = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    of_bytes = {token: gguf.TokenType.BYTE for token in tokens if token.startswith("<0x")}
    writer.add_token_types([{**kinds, **of_bytes}.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


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

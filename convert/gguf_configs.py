"""config.json of a GGUF file: what its keys say, by the names that transformers has for it.

The keys are those that llama.cpp's `convert_hf_to_gguf.py` writes. What they leave out is as llama.cpp runs it, which
is how transformers reads such files (`transformers.integrations.ggml`) but for what that passes over: scaled rotary
positions, and biases of a Llama's attention. A key that is neither read nor harmless is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from convert.gguf_files import GgufFile
from convert.gguf_rotary import rotary
from jaxpaint.base.documents import shown
from jaxpaint.base.errors import UserError
from jaxpaint.models.harmless import is_off

# Keys of every architecture, without its name, by attributes of config.json.
SHARED = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
OTHERS = {
    *("attention.head_count_kv", "attention.key_length", "attention.value_length", "vocab_size"),
    *("rope.freq_base", "rope.dimension_count"),
}
# The layout in which rows were saved, which names of architectures imply.
HARMLESS = {"tensor_data_layout"}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp calls an architecture: the model of transformers' that it is, and how its file differs.

    `keys` are those that it has beside the shared ones, by attributes of config.json, and `needed` those among them
    without which it would be another model. `more` adds what follows from the rest of the config. With
    `neighbours_turn` rows of queries and keys are in the order of llama.cpp's rotary positions; with `whole_norms`
    norms' scales have the 1 that transformers adds.
    """

    model_type: str
    model_class: str
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    needed: tuple[str, ...] = ()
    more: Callable[[GgufFile, dict[str, Any]], Mapping[str, Any]] = lambda file, config: {}
    neighbours_turn: bool = False
    whole_norms: bool = False


def _biases(file: GgufFile, config: dict[str, Any]) -> Mapping[str, Any]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


def _gemma2(file: GgufFile, config: dict[str, Any]) -> Mapping[str, Any]:
    """Scores of the model of 27B are scaled otherwise; llama.cpp knows it by its layers."""
    whole = config["hidden_size"] // config["num_attention_heads"]
    return {"query_pre_attn_scalar": whole if config["num_hidden_layers"] == 46 else config["head_dim"]}


def _gemma3(file: GgufFile, config: dict[str, Any]) -> Mapping[str, Any]:
    """The same; every sixth layer attends in full unless the file says otherwise, and the others turn by their own."""
    whole = config["hidden_size"] // config["num_attention_heads"]
    return {
        "query_pre_attn_scalar": whole if config["num_hidden_layers"] == 62 else config["head_dim"],
        **_kinds(file, config["num_hidden_layers"]),
        "rope_local_base_freq": config.get("rope_local_base_freq", 10000.0),
    }


def _kinds(file: GgufFile, num_layers: int) -> Mapping[str, Any]:
    """Which layers have the window, where the file says it: every so many-th has none, or a flag for each."""
    key = f"{file.architecture}.attention.sliding_window_pattern"
    pattern = file.value(key)
    if not isinstance(pattern, list):
        return {} if pattern is None else {"sliding_window_pattern": file.count(key)}
    if len(pattern) != num_layers:
        raise UserError(f"{file.file}: {key} has {len(pattern)} entries for {num_layers} layers")
    return {"layer_types": ["sliding_attention" if each else "full_attention" for each in pattern]}


_QWEN = {"use_sliding_window": False}
_WINDOW = {"sliding_window": "attention.sliding_window"}
_GEMMA3 = {**_WINDOW, "rope_local_base_freq": "rope.freq_base_swa"}
_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", more=_biases, neighbours_turn=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", more=lambda file, config: _QWEN),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", more=lambda file, config: _QWEN),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM"),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _WINDOW),
    "gemma2": Architecture(
        "gemma2", "Gemma2ForCausalLM", {**_WINDOW, **_CAPS}, ("sliding_window",), _gemma2, whole_norms=True
    ),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _GEMMA3, ("sliding_window",), _gemma3, whole_norms=True),
}


def architecture_of(file: GgufFile) -> Architecture:
    """Raises UserError for one that is not known, naming those that are."""
    if (kind := file.value("general.type")) not in (None, "model"):
        raise UserError(f"{file.file} is no model but, by its general.type, {shown(kind)}")
    name = file.architecture
    if name not in ARCHITECTURES:
        raise UserError(
            f"{file.file} is of the architecture {name[:40]!r}, which jaxpaint does not read; of GGUF files it reads "
            f"{', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def huggingface_config(file: GgufFile) -> dict[str, Any]:
    """What a config.json of the model says. Its numbers are checked by the family that reads it.

    Raises:
        UserError: an architecture that is not known, a key that is missing, or one that would change the result.
    """
    known, name = architecture_of(file), file.architecture
    lacking = [f"{name}.{key}" for key in SHARED.values() if f"{name}.{key}" not in file.fields]
    lacking += [
        f"{name}.{known.keys[each]}" for each in known.needed if f"{name}.{known.keys[each]}" not in file.fields
    ]
    if lacking or EMBEDDING not in file.tensors:
        raise UserError(f"{file.file} lacks {', '.join(lacking or [EMBEDDING])}: is it a whole model?")

    heads, hidden_size = file.count(f"{name}.attention.head_count"), file.count(f"{name}.embedding_length")
    implied = hidden_size // max(heads, 1)
    if known.neighbours_turn:  # whose heads turn as a whole
        implied = file.count(f"{name}.rope.dimension_count", implied)
    head_dim = file.count(f"{name}.attention.key_length", implied)
    if (other := file.count(f"{name}.attention.value_length", head_dim)) != head_dim:
        raise UserError(f"{file.file}: {name}.attention.value_length is {other} and key_length {head_dim}: not handled")
    config = {
        "architectures": [known.model_class],
        "model_type": known.model_type,
        **{attribute: file.value(f"{name}.{key}") for attribute, key in SHARED.items()},
        "num_key_value_heads": file.count(f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": file.count(f"{name}.vocab_size", file.tensors[EMBEDDING].shape[0]),
        "tie_word_embeddings": HEAD not in file.tensors,
    }
    config |= {each: value for each, key in known.keys.items() if (value := file.value(f"{name}.{key}")) is not None}
    config |= known.more(file, config)
    turning, read = rotary(file, head_dim)
    _refuse_others(file, {*SHARED.values(), *OTHERS, *known.keys.values(), *HARMLESS, *read})
    return {**config, **turning, **_tokens(file)}


def _tokens(file: GgufFile) -> dict[str, Any]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {attribute: f"tokenizer.ggml.{key}_token_id" for attribute, key in keys.items()}
    return {attribute: file.count(key) for attribute, key in found.items() if key in file.fields}


def _refuse_others(file: GgufFile, read: set[str]) -> None:
    name = file.architecture
    keys = {key.removeprefix(f"{name}."): key for key in file.fields if key.startswith(f"{name}.")}
    if name.startswith("gemma"):
        read = {*read, "attention.sliding_window_pattern"}
    values = {key: file.value(full) for short, full in keys.items() for key in [full] if short not in read}
    if others := {key: value for key, value in values.items() if not is_off(value)}:
        raise UserError(
            f"{file.file} sets {shown(others)}, which jaxpaint does not handle for {name} and which may change the "
            "result"
        )

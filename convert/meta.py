"""Meta's original releases: `params.json` beside `consolidated.*.pth`, split for model parallelism.

Rotary pairs: Meta rotates neighbouring rows of a head against each other, Hugging Face (and this project) the
halves, so the rows of `wq` and `wk` change places. The permutation and the names are those of transformers'
`convert_llama_weights_to_hf.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.rotary_rows import half_split
from convert.tensors import Tensor, by_name
from convert.torch_files import read_torch_file
from jaxpaint.base.documents import checked, read_json, shown
from jaxpaint.base.errors import UserError
from jaxpaint.models.fields import LARGEST_WHOLE
from jaxpaint.models.llama import NAMES

# Meta's name inside a layer: the Hugging Face name, and the axis that model parallelism splits.
LAYER_NAMES: dict[str, tuple[str, int | None]] = {
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w3": ("mlp.up_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "attention_norm": ("input_layernorm", None),
    "ffn_norm": ("post_attention_layernorm", None),
}
HANDLED = {
    *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"),
    *("rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size"),
}


def is_meta_folder(folder: Path) -> bool:
    return (folder / "params.json").is_file() and any(folder.glob("consolidated.*.pth"))


def read_meta_folder(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """A Hugging Face style config and the tensors under their Hugging Face names, shards joined, none read yet.

    Raises:
        UserError: params.json that is unreadable or has parameters that are not handled, or shards that do not fit.
    """
    files = sorted(folder.glob("consolidated.*.pth"))
    parameters = _read_parameters(folder / "params.json")
    shards = [by_name(read_torch_file(file), str(file)) for file in files]
    for file, shard in zip(files, shards, strict=True):
        difference = sorted(shard.keys() ^ shards[0].keys())
        if difference:
            raise UserError(f"{file} and {files[0].name} hold different tensors: {', '.join(difference[:4])}")
    heads = _positive(parameters, "n_heads")
    key_value_heads = _positive(parameters, "n_kv_heads") if parameters.get("n_kv_heads") else heads
    tensors = []
    for name in shards[0]:
        if name.endswith("rope.freqs"):
            continue
        parts = [shard[name] for shard in shards]
        tensors.append(_translated(name, parts, _positive(parameters, "dim"), heads, key_value_heads))
    found = by_name(tensors, str(folder))
    return _config(parameters, found, heads, key_value_heads, folder), found


def _read_parameters(file: Path) -> dict[str, Any]:
    parameters = read_json(file, dict[str, Any])
    if "model" in parameters:  # some releases have more than the model's
        parameters = checked(parameters["model"], dict[str, Any], f"{file}, model")
    unhandled = {name: value for name, value in parameters.items() if name not in HANDLED and value}
    if unhandled:
        raise UserError(
            f"{file} sets {shown(unhandled)}, which jaxpaint does not handle and which may change the result"
        )
    return parameters


def _positive(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST_WHOLE:
        raise UserError(f"params.json has {name}={shown(value)}; it must be a positive number")
    return value


def _config(
    parameters: Mapping[str, Any], tensors: Mapping[str, Tensor], heads: int, key_value_heads: int, folder: Path
) -> dict[str, Any]:
    gate = "model.layers.0.mlp.gate_proj.weight"
    lacking = [name for name in (NAMES.embedding, gate) if name not in tensors]
    if lacking:
        raise UserError(
            f"the checkpoint {folder} lacks {', '.join(lacking)}; it holds {', '.join(sorted(tensors)[:4])}"
        )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": parameters["dim"],
        "intermediate_size": _rows(tensors[gate]),
        "num_hidden_layers": _positive(parameters, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        # -1 in Llama 1 and 2: the tokenizer's size, which is the embedding's.
        "vocab_size": _rows(tensors[NAMES.embedding]),
        "rms_norm_eps": parameters.get("norm_eps", 1e-5),
        "rope_theta": parameters.get("rope_theta") or 10000.0,
        "max_position_embeddings": parameters.get("max_seq_len") or _context_length(parameters),
        # A head in the file is used, whether or not it equals the embedding.
        "tie_word_embeddings": NAMES.head not in tensors,
    }
    if parameters.get("use_scaled_rope"):
        # params.json has no factor: 8 in Llama 3.1 (8B and up), 32 in the small models of Llama 3.2 (1B, 3B).
        factor = parameters.get("rope_scaling_factor") or (32.0 if parameters["dim"] < 4096 else 8.0)
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return config


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.shape else 0


def _context_length(parameters: Mapping[str, Any]) -> int:
    """In tokens, by generation, which params.json tells only indirectly (as transformers' converter has them)."""
    if parameters.get("use_scaled_rope"):
        return 131072
    if parameters.get("rope_theta") == 500000.0:
        return 8192
    if parameters.get("rope_theta") == 1000000.0:
        return 16384
    # Llama 1 had 2048, with an epsilon of 1e-6; its largest, with another, had as many key and value heads as queries.
    largest = parameters["dim"] == 8192 and not parameters.get("n_kv_heads")
    return 2048 if parameters.get("norm_eps") == 1e-6 or largest else 4096


def _translated(name: str, parts: Sequence[Tensor], hidden_size: int, heads: int, key_value_heads: int) -> Tensor:
    """A tensor under its Hugging Face name (or its own, if unknown), joined and in the half-split rotary layout."""
    match = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    if match and match[2] in LAYER_NAMES:
        module, axis = LAYER_NAMES[match[2]]
        joined = _joined(f"model.layers.{match[1]}.{module}.weight", parts, axis)
        rotary_heads = {"self_attn.q_proj": heads, "self_attn.k_proj": key_value_heads}.get(module)
        return half_split(joined, rotary_heads) if rotary_heads else joined
    if name == "tok_embeddings.weight":
        # Split over hidden_size in Llama 1 and 2, over the vocabulary in Llama 3.
        return _joined(NAMES.embedding, parts, 0 if parts[0].shape[-1:] == (hidden_size,) else 1)
    if name == "output.weight":
        return _joined(NAMES.head, parts, 0)
    return _joined("model.norm.weight" if name == "norm.weight" else name, parts, None)


def _joined(name: str, parts: Sequence[Tensor], axis: int | None) -> Tensor:
    """Model-parallel shards along `axis`; None means that every shard holds the whole."""
    first = parts[0]
    files = first.file if len(parts) == 1 else f"{first.file}..{parts[-1].file}"
    for part in parts:
        if part.shape != first.shape or part.dtype != first.dtype:
            raise UserError(
                f"{first.name} is {first.dtype} {list(first.shape)} in {first.file} and {part.dtype} "
                f"{list(part.shape)} in {part.file}: are these shards of one checkpoint?"
            )
    if axis is not None and len(first.shape) != 2:
        raise UserError(f"{first.name} is {list(first.shape)} in {first.file}, and should be a matrix")
    if axis is None or len(parts) == 1:
        return Tensor(name, first.shape, first.dtype, files, first.part)
    shape = tuple(size * len(parts) if place == axis else size for place, size in enumerate(first.shape))
    extent = first.shape[axis]

    def read(along: int, start: int, stop: int) -> np.ndarray:
        if along != axis:
            return np.concatenate([part.part(along, start, stop) for part in parts], axis=axis)
        offsets = [(part, start - place * extent, stop - place * extent) for place, part in enumerate(parts)]
        pieces = [
            part.part(axis, max(low, 0), min(high, extent)) for part, low, high in offsets if low < extent and high > 0
        ]
        return np.concatenate(pieces, axis=axis)

    return Tensor(name, shape, first.dtype, files, read)

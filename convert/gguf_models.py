"""GGUF files as models: their config.json, weights and tokenizer, by the names and in the order of transformers'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.gguf_configs import architecture_of, huggingface_config
from convert.gguf_files import GgufFile, read_gguf
from convert.gguf_rotary import TENSORS as OF_ROTARY
from convert.gguf_tensors import less_one, weight
from convert.rotary_rows import half_split
from convert.tensors import Tensor, abbreviated
from jaxpaint.base.errors import UserError
from jaxpaint.models import abstract_parameters, family_of, from_huggingface
from jaxpaint.models.family import Config
from jaxpaint.models.fields import ConfigError


@dataclass(frozen=True)
class GgufModel:
    """None of its tensors is read yet. `quantisation` counts them by the names of their types; `tokenizer` is the kind
    of its tokenizer and `split` how that splits texts first, None where the file does not say."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    quantisation: Mapping[str, int]
    tokenizer: str | None
    split: str | None


def read_gguf_model(path: Path) -> GgufModel:
    """What a GGUF file, or the first part of one, holds.

    Raises:
        UserError: a damaged file, an architecture that is not known, keys that are missing or not handled, tensors that
            are none of the model's.
    """
    import gguf

    file = read_gguf(path)
    if file.is_swapped:
        raise UserError(f"{path} has its bytes in the other order, that of big-endian machines; take one of this order")
    raw = huggingface_config(file)
    try:
        config = from_huggingface(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}, its keys as a config.json's: {error}") from error
    types = Counter(gguf.GGMLQuantizationType(tensor.type).name for tensor in file.tensors.values())
    return GgufModel(
        raw,
        _weights(file, config),
        dict(types.most_common()),
        file.text("tokenizer.ggml.model"),
        file.text("tokenizer.ggml.pre"),
    )


def _weights(file: GgufFile, config: Config) -> dict[str, Tensor]:
    """By transformers' names, of which the package has llama.cpp's."""
    import gguf
    import jax.numpy as jnp

    known, names = architecture_of(file), family_of(config.model_type).names
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[file.architecture], 1)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found: dict[str, Tensor] = {}
    left = dict(file.tensors)
    for path in abstract_parameters(config, jnp.float32):
        entry = names.weight(path)
        module, _, leaf = entry.of_layer(0).rpartition(".")
        theirs = f"{table.get_name(module)}.{leaf}"
        for layer in range(config.num_hidden_layers if entry.stacked else 1):
            tensor = left.pop(theirs.replace("blk.0.", f"blk.{layer}.", 1), None)
            if tensor is None:
                continue  # told where shapes are compared
            name = entry.of_layer(layer)
            found[name] = weight(name, tensor)
            if known.whole_norms and module.endswith("norm"):
                found[name] = less_one(found[name])
            elif known.neighbours_turn and (turned := heads.get(theirs.split(".")[-2])):
                found[name] = half_split(found[name], turned)
    if others := [f"{name} {list(tensor.shape)}" for name, tensor in left.items() if name not in OF_ROTARY]:
        raise UserError(
            f"{file.file} has tensors that a {file.architecture} of its keys has not, as jaxpaint reads it: "
            f"{abbreviated(others)}"
        )
    return found

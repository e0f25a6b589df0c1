"""Tiny checkpoints for the tests of conversion, and what must hold of their stores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from jaxpaint.models import checkpoint
from tests.helpers.decoders import randomise, stacked_parameters

LAYERS, HIDDEN, HEADS, KEY_VALUE_HEADS, VOCABULARY = 3, 16, 4, 2, 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "max_position_embeddings": 64,
}


def make_model(folder: Path, *, dtype: torch.dtype = torch.float32, shard: str = "1GB", tied: bool = False, **config):
    """A random model of transformers, saved as a Hugging Face folder."""
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": tied, **config}))
    randomise(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return model


def assert_converted(store: Path, model) -> None:
    stored = flatten_dict(checkpoint.restore(store), sep="/")
    weights = {name: value.float() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = next(iter(weights.values()))  # the embedding comes first
    expected = flatten_dict(stacked_parameters(weights, model.config.num_hidden_layers), sep="/")
    assert stored.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(np.asarray(stored[path], np.float32), value, err_msg=path)


def edit_tensors(folder: Path, change) -> None:
    """Applies `change` to the tensors of a folder's one safetensors file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_nothing_written(destination: Path) -> None:
    assert not destination.exists()
    assert not list(destination.parent.glob(f".{destination.name}*"))


def save_as_meta(model, folder: Path, parts: int, *, embedding_axis: int, **parameters) -> None:
    """Meta's layout of a model: interleaved rotary rows, its names, split for model parallelism."""
    columns, rows = ("wq", "wk", "wv", "w1", "w3", "output"), ("wo", "w2")

    def interleaved(weight, heads):
        return weight.view(heads, 2, -1, HIDDEN).transpose(1, 2).reshape(weight.shape)

    whole = {
        "tok_embeddings": model.model.embed_tokens.weight,
        "norm": model.model.norm.weight,
        "output": model.lm_head.weight,
    }
    for number, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for name, weight in {
            "attention.wq": interleaved(attention.q_proj.weight, HEADS),
            "attention.wk": interleaved(attention.k_proj.weight, KEY_VALUE_HEADS),
            "attention.wv": attention.v_proj.weight,
            "attention.wo": attention.o_proj.weight,
            "feed_forward.w1": mlp.gate_proj.weight,
            "feed_forward.w2": mlp.down_proj.weight,
            "feed_forward.w3": mlp.up_proj.weight,
            "attention_norm": layer.input_layernorm.weight,
            "ffn_norm": layer.post_attention_layernorm.weight,
        }.items():
            whole[f"layers.{number}.{name}"] = weight
    folder.mkdir()
    for part in range(parts):
        shard = {"rope.freqs": torch.ones(2)}
        for name, weight in whole.items():
            last = name.split(".")[-1]
            axis = 0 if last in columns else 1 if last in rows else embedding_axis if last == "tok_embeddings" else None
            piece = weight if axis is None else weight.chunk(parts, dim=axis)[part]
            shard[f"{name}.weight"] = piece.detach().clone()
        torch.save(shard, folder / f"consolidated.{part:02d}.pth")
    values = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "norm_eps": 1e-5, "vocab_size": -1, **parameters}
    (folder / "params.json").write_text(json.dumps(values))

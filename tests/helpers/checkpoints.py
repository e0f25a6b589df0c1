"""Tiny checkpoints for the tests of conversion, and what must hold of their stores."""

from __future__ import annotations

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


def make_model(folder: Path, *, dtype: torch.dtype = torch.float32, shard: str = "1GB", tied: bool = False):
    """A random model of transformers, saved as a Hugging Face folder."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
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

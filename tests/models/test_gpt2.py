"""GPT-2 beyond tests/models/test_families.py: its own names, and what older checkpoints hold beside the weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.checkpoint import read_config
from jaxpaint.models.fields import ConfigError
from jaxpaint.plans.plan import Plan
from tests.helpers.checkpoints import assert_converted, edit_tensors
from tests.helpers.decoders import NUM_LAYERS, Tiny, make_tiny


@pytest.fixture
def tiny() -> Tiny:
    return make_tiny("gpt2")


def test_its_first_files_without_a_prefix_and_with_masks_are_converted(tiny: Tiny, tmp_path: Any) -> None:
    tiny.torch.save_pretrained(tmp_path / "model")

    def as_first(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(NUM_LAYERS):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    edit_tensors(tmp_path / "model", as_first)
    store = convert(tmp_path / "model", tmp_path / "store")
    assert_converted(store, tiny.torch)
    exported = json.loads((export(store, tmp_path / "exported", Plan.parse("0 3")) / "config.json").read_text())
    assert (exported["n_layer"], "num_hidden_layers" in exported) == (2, False)
    assert from_dict(json.loads((store / "config.json").read_text())) == read_config(store) == tiny.model.config


def test_a_text_longer_than_its_positions_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="65 positions are more than the model's 64"):
        tiny.model.logits(np.zeros((1, 65), int))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_head": 5}, "num_attention_heads=5"),
        ({"hidden_size": 64}, "n_embd=32 and hidden_size=64"),
        ({"n_embd": None}, "hidden_size"),
        ({"activation_function": "quick_gelu"}, "quick_gelu"),
        ({"rope_theta": 10000.0}, "rope_theta"),
    ],
)
def test_what_changes_the_result_is_refused_by_name(tiny: Tiny, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_huggingface({**tiny.raw_config, **change})


def test_the_order_of_its_roundings_is_no_other_result(tiny: Tiny) -> None:
    assert from_huggingface({**tiny.raw_config, "reorder_and_upcast_attn": True}) == tiny.model.config

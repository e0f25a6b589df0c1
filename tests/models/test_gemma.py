"""Gemma, Gemma 2 and 3 beyond what `test_families` runs: their config.json, and what reads a layer's layout."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from jaxpaint.engine.model import from_parameters
from jaxpaint.models import from_huggingface
from jaxpaint.models.family import Rotary
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.scalings import RopeScaling
from tests.helpers.decoders import LONGEST, WINDOW, make_tiny

SIZES: dict[str, Any] = {
    **{"vocab_size": 61, "hidden_size": 256, "intermediate_size": 48},
    **{"num_hidden_layers": 7, "num_attention_heads": 4},
}
LINEAR = {"rope_type": "linear", "factor": 8.0}


def _read(model_type: str, **more: Any) -> Any:
    return from_huggingface({"model_type": model_type, **SIZES, **more})


@pytest.mark.parametrize(
    ("said", "whole", "local"),
    [
        ({}, Rotary(1e6), 1e4),
        ({"rope_theta": 2e5, "rope_local_base_freq": 3e3, "rope_scaling": None}, Rotary(2e5), 3e3),
        ({"rope_theta": 2e5, "rope_scaling": LINEAR}, Rotary(2e5, RopeScaling("linear", 8.0)), 1e4),
        ({"rope_parameters": {"full_attention": LINEAR}}, Rotary(1e6, RopeScaling("linear", 8.0)), 1e4),
        (
            {
                "rope_parameters": {
                    "full_attention": {**LINEAR, "rope_theta": 5e5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 4e3},
                },
                **{"rope_theta": 2e5, "rope_local_base_freq": 3e3},
            },
            Rotary(5e5, RopeScaling("linear", 8.0)),
            4e3,
        ),
    ],
)
def test_both_spellings_of_two_bases(said: dict[str, Any], whole: Rotary, local: float) -> None:
    """As transformers reads them, whose frequencies for each kind of layer are compared in `test_decoders`."""
    read = {kind: dict(value) for kind, value in said.get("rope_parameters", {}).items()}
    theirs = transformers.Gemma3TextConfig(**SIZES, **{**said, **({"rope_parameters": read} if read else {})})
    assert theirs.rope_parameters["full_attention"]["rope_theta"] == whole.theta
    assert theirs.rope_parameters["full_attention"].get("factor") == (whole.scaling and whole.scaling.factor)
    assert theirs.rope_parameters["sliding_attention"]["rope_theta"] == local
    rotary = _read("gemma3_text", **said).traits.rotary
    assert rotary == tuple(Rotary(local) if kind == "sliding_attention" else whole for kind in theirs.layer_types)


@pytest.mark.parametrize(("said", "every"), [({}, 6), ({"sliding_window_pattern": 3, "_sliding_window_pattern": 6}, 3)])
def test_every_so_many_layers_attend_in_full(said: dict[str, Any], every: int) -> None:
    theirs = transformers.Gemma3TextConfig(**SIZES, **said)
    config = _read("gemma3_text", **said)
    assert list(config.layer_types) == theirs.layer_types
    assert [each is None for each in config.traits.windows] == [(layer + 1) % every == 0 for layer in range(7)]


@pytest.mark.parametrize(
    ("model_type", "change", "named"),
    [
        ("gemma", {"hidden_act": "gelu", "hidden_activation": "relu"}, "hidden_activation='relu'"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma2", {"hidden_act": "silu"}, "hidden_act='silu'"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 7}, "chunked_attention"),
        ("gemma2", {"sliding_window": None}, "sliding_window=None"),
        ("gemma2", {"sliding_window": 4096, "sliding_window_size": 8}, "sliding_window_size=8"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping=0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3_text", {"_sliding_window_pattern": 3}, "_sliding_window_pattern=3"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ("gemma3_text", {"rope_parameters": {"sliding_attention": LINEAR}}, "sliding_attention"),
        ("gemma3_text", {"rope_parameters": "linear"}, "rope_parameters='linear'"),
        ("gemma3_text", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("gemma3", {}, "text-part"),
    ],
)
def test_refused_by_name(model_type: str, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _read(model_type, **change)


def test_what_published_configs_say_is_read() -> None:
    """A cap of null is none, though silence is one; the first Gemma's `gelu` is that of tanh."""
    config = _read("gemma2", attn_logit_softcapping=None, sliding_window=WINDOW, sliding_window_size=WINDOW)
    assert (config.traits.attention_cap, config.traits.logit_cap) == (None, 30.0)
    assert config.capabilities.flash_attention
    assert not _read("gemma2").capabilities.flash_attention
    assert _read("gemma", hidden_act="gelu", num_attention_heads=16).hidden_act == "gelu_pytorch_tanh"
    assert _read("gemma2", hidden_act="gelu", hidden_activation="relu").hidden_act == "relu"
    assert _read("gemma3_text", cache_implementation="hybrid", use_bidirectional_attention=False).tie_word_embeddings


@pytest.mark.slow
def test_attention_block_by_block_is_that_with_a_mask() -> None:
    """Each layer has its own window and rotary base there."""
    tiny, positions = make_tiny("gemma3"), jnp.arange(LONGEST)[None]
    x = jnp.array(np.random.default_rng(0).normal(size=(1, LONGEST, 32)), jnp.float32)
    layout = positions, jnp.full_like(positions, LONGEST)
    for layer in (0, 2):
        found, expected = (tiny.block(layer)(x, tiny.context(layer, *layout, lookback)) for lookback in (None, 0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("variation", ["gemma", "gemma2", "gemma3"])
def test_embeddings_in_bfloat16_are_scaled_as_transformers_scales_them(variation: str) -> None:
    """By the root of their size in bfloat16, to the last bit."""
    tiny, tokens = make_tiny(variation), np.arange(61)[None]
    parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.to_pure_dict(tiny.model.state))
    model = from_parameters(tiny.model.config, parameters)
    found = nnx.merge(model.graphdef, model.state).embed(jnp.array(tokens), jnp.array(tokens))
    theirs = copy.deepcopy(tiny.torch.get_input_embeddings()).bfloat16()(torch.tensor(tokens))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float32), theirs.detach().float().numpy())


@pytest.mark.slow
def test_a_run_that_is_looked_into_has_the_models_logits(texts: np.ndarray) -> None:
    """Its attention is computed apart, each layer's with its own rotary base and window."""
    tiny = make_tiny("gemma3")
    plan = "4 {0 2}*2 1"
    found, expected = tiny.model.run(texts, plan).last_logits, np.asarray(tiny.model.logits(texts, plan))[:, -1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

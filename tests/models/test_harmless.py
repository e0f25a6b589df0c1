"""Attributes of config.json that change nothing: transformers' logits are the same with them, and they are accepted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

from jaxpaint.models import from_huggingface
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.harmless import HARMLESS, HARMLESS_WHEN
from tests.helpers.bert_models import torch_bert
from tests.helpers.decoders import LONGEST, NUM_LAYERS, make_tiny

FAMILIES = ["grouped-query", "sliding window", "neox", "qwen2", "gemma3", "bert"]
# What transformers takes these for has a type, which it checks.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("torch_dtype", "dtype"), "float32"),
    **dict.fromkeys(("_attn_implementation", "attn_implementation", "_attn_implementation_internal"), "eager"),
    **dict.fromkeys(("_experts_implementation", "_experts_implementation_internal"), "eager"),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"), 3),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "use_cache", "torchscript"), True),
    **dict.fromkeys(("pretraining_tp", "chunk_size_feed_forward", "max_new_tokens", "min_new_tokens", "top_k"), 2),
    **dict.fromkeys(("early_stopping", "do_sample", "disable_compile", "renormalize_logits"), True),
    **dict.fromkeys(("cache_config", "watermarking_config", "compile_config", "continuous_batching_config"), None),
    "cache_implementation": "dynamic",
    "assistant_ensemble_weight": 0.5,
    "architectures": ["SomeModel"],
    "id2label": {"0": "no", "1": "yes", "2": "maybe"},
    "label2id": {"no": 0, "yes": 1, "maybe": 2},
    "num_labels": 3,
    "problem_type": "regression",
    "auto_map": {"AutoModelForCausalLM": "modeling_x.X"},
    "no_repeat_ngram_size": 3,
    "repetition_penalty": 1.5,
    "transformers_version": "4.31.0",
}


def _network(family: str) -> Any:
    return torch_bert() if family == "bert" else make_tiny(family).torch


def _logits(network: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = network.eval()(torch.tensor(tokens))
    return (found.prediction_logits if hasattr(found, "prediction_logits") else found.logits).numpy()


def _with(network: Any, more: dict[str, Any]) -> Any:
    """transformers' model of the same weights, its config.json with more in it."""
    raw = {**json.loads(network.config.to_json_string()), **more}
    config = type(network.config).from_dict({name: value for name, value in raw.items() if name != "model_type"})
    made = type(network)(config)
    made.load_state_dict(network.state_dict())
    return made


def _value(name: str) -> Any:
    numbers = ("dropout", "pdrop", "initializer_", "init_std")
    return VALUES.get(name, 0.1 if any(part in name for part in numbers) else "something")


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same_with_all_of_them(family: str) -> None:
    network = _network(family)
    raw = json.loads(network.config.to_json_string())
    more = {name: _value(name) for name in HARMLESS if name != "model_type"}
    if family == "bert":  # of these three a BERT's training reads the value
        more = {name: value for name, value in more.items() if name not in raw or "dropout" not in name}
    tokens = np.random.default_rng(0).integers(0, 61, (2, LONGEST))
    np.testing.assert_array_equal(_logits(_with(network, more), tokens), _logits(network, tokens))
    assert from_huggingface({**raw, **more}) == from_huggingface(raw)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("grouped-query", {"is_decoder": True, "is_causal": True, "type_vocab_size": 16, "max_window_layers": 28}),
        ("grouped-query", {"layer_types": ["full_attention"] * NUM_LAYERS, "position_embedding_type": "absolute"}),
        ("grouped-query", {"rope_type": "default", "partial_rotary_factor": 1.0, "embedding_size": 32}),
        ("grouped-query", {"hidden_act": "swish", "quantization_config": None, "rope_interleaved": False}),
        ("grouped-query", {"quantization_config": {"quant_method": None, "bits": None, "modules": {"skip": []}}}),
        ("sliding window", {"use_sliding_window": True, "max_window_layers": 3, "hidden_act": "swish"}),
        ("sliding window", {"layer_types": ["full_attention"] * NUM_LAYERS}),
        ("qwen2", {"attention_bias": True, "layer_types": ["full_attention"] * NUM_LAYERS, "hidden_act": "swish"}),
        ("neox", {"num_key_value_heads": 4, "head_dim": 8, "rotary_pct": 0.25, "partial_rotary_factor": 0.25}),
        ("neox", {"rotary_emb_base": 10000, "rope_theta": 10000, "hidden_act": "gelu_python"}),
        ("bert", {"num_key_value_heads": 4, "head_dim": 8, "embedding_size": 32, "hidden_act": "gelu_python"}),
        ("bert", {"directionality": "bidi", "pooler_type": "first_token_transform", "pooler_fc_size": 768}),
        ("bert", {"adapters": {"adapters": {}, "config_map": {}, "fusions": {}}, "name": "Bert"}),
    ],
)
def test_what_changes_nothing_at_this_value(family: str, more: dict[str, Any]) -> None:
    network = _network(family)
    raw = json.loads(network.config.to_json_string())
    tokens = np.random.default_rng(0).integers(0, 61, (2, LONGEST))
    if "quantization_config" not in more:  # read while a folder is loaded, not here
        np.testing.assert_allclose(
            _logits(_with(network, more), tokens), _logits(network, tokens), rtol=1e-5, atol=1e-5
        )
    assert from_huggingface({**raw, **more}) == from_huggingface(raw)


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("grouped-query", "layer_types", ["sliding_attention"] * NUM_LAYERS),
        ("grouped-query", "layer_types", ["full_attention"]),
        ("grouped-query", "partial_rotary_factor", 0.5),
        ("grouped-query", "rope_type", "linear"),
        ("grouped-query", "position_embedding_type", "alibi"),
        ("grouped-query", "quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("grouped-query", "quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("grouped-query", "quantization_config", "int8"),
        ("grouped-query", "embedding_size", 16),
        ("grouped-query", "pruned_heads", {"0": [1]}),
        ("grouped-query", "is_encoder_decoder", True),
        ("grouped-query", "no_rope_layers", [0]),
        ("neox", "head_dim", 4),
        ("neox", "head_dim", "wide"),
        ("neox", "num_key_value_heads", 2),
        ("neox", "partial_rotary_factor", 0.5),
        ("bert", "is_decoder", True),
        ("bert", "add_cross_attention", True),
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "is_causal", True),
    ],
)
def test_what_may_change_the_result_is_refused_by_name(family: str, name: str, value: Any) -> None:
    raw = json.loads(_network(family).config.to_json_string())
    with pytest.raises(ConfigError, match=name):
        from_huggingface({**raw, name: value})


def test_a_quantization_that_is_off_is_loaded_as_transformers_loads_it(tmp_path: Any) -> None:
    network = make_tiny("grouped-query").torch
    network.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    off = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False, "llm_int8_threshold": 6.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": off}))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 61, (1, LONGEST))
    np.testing.assert_allclose(_logits(loaded, tokens), _logits(network, tokens), rtol=1e-5, atol=1e-5)
    from_huggingface(json.loads(file.read_text()))


def test_every_setting_of_generation_is_known() -> None:
    settings = set(GenerationConfig().to_dict()) | set(GenerationConfig._get_default_generation_params())
    assert settings - set(HARMLESS) == set()


def test_each_has_a_reason() -> None:
    assert not set(HARMLESS) & set(HARMLESS_WHEN)
    assert all(len(reason.split()) > 2 for reason in HARMLESS.values())
    assert all(len(reason) > 5 for _, reason in HARMLESS_WHEN.values())

"""Rotary frequencies rescaled for longer contexts, against transformers within the lengths that a model reads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import transformers

from jaxpaint.base.errors import UserError
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.fields import ConfigError
from tests.helpers.decoders import SIZES, VOCAB_SIZE, Tiny, tiny_like

HALF = 4  # frequencies of a head
SHORT, LONG = [1.0, 1.1, 1.7, 2.5], [1.0, 3.0, 8.0, 20.0]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 2.0}),
    "dynamic, qwen2": ("qwen2", {"rope_type": "dynamic", "factor": 3.3}),
    "dynamic, neox": ("gpt_neox", {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 1.0}),
    "yarn": ("llama", YARN),
    "yarn, mistral": ("mistral", {**YARN, "beta_fast": 4, "beta_slow": 1}),
    "yarn, neox, half a head": ("gpt_neox", {**YARN, "beta_fast": 2.0, "partial_rotary_factor": 0.5}),
    "yarn, its own magnitude": ("qwen2", {**YARN, "attention_factor": 1.4}),
    "yarn, magnitudes": ("llama", {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}),
    "yarn, one magnitude": ("llama", {**YARN, "mscale": 0.7}),
    "yarn, whole ends": ("llama", {**YARN, "beta_fast": 3, "truncate": False}),
    "yarn, factor by lengths": ("llama", {**YARN, "factor": None}),
    "yarn, no factor": ("llama", {**YARN, "factor": 0.5}),
    "yarn, no original length": ("llama", {"rope_type": "yarn", "factor": 4.0, "beta_fast": 3}),
    "longrope": ("llama", LONGROPE),
    "longrope, factor": ("mistral", {**LONGROPE, "factor": 8.0}),
    "longrope, its own magnitude": ("qwen2", {**LONGROPE, "attention_factor": 1.3}),
    "yarn, stablelm, half a head": ("stablelm", {**YARN, "partial_rotary_factor": 0.5}),
    "longrope, neox": ("gpt_neox", {**LONGROPE, "partial_rotary_factor": 1.0}),
}


def _tiny(model_type: str, parameters: dict[str, Any], **more: Any) -> Tiny:
    values = {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0, **more}
    return tiny_like(model_type, **values, rope_parameters={"rope_theta": 300.0, **parameters})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.few(2)
def test_logits_equal_transformers_over_the_whole_context(case: str) -> None:
    model_type, parameters = CASES[case]
    tiny = _tiny(model_type, parameters)
    length = tiny.model.config.max_position_embeddings
    assert length == 64
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, length))
    np.testing.assert_allclose(tiny.model.logits(tokens), tiny.torch_logits(tokens), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=f"{length + 1} positions are more than the model's {length}"):
        tiny.model.logits(np.zeros((1, length + 1), int))


@pytest.mark.parametrize("case", CASES)
def test_a_config_keeps_its_scaling(case: str) -> None:
    model_type, parameters = CASES[case]
    config = _tiny(model_type, parameters).model.config
    again = from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize("case", [case for case in CASES if "dynamic" not in case])
def test_the_scaling_matters(case: str) -> None:
    model_type, parameters = CASES[case]
    tiny = _tiny(model_type, parameters)
    plain = {name: value for name, value in parameters.items() if name == "partial_rotary_factor"}
    without = from_huggingface({**tiny.raw_config, "rope_parameters": {"rope_theta": 300.0, **plain}})
    assert without.rope_scaling is None  # type: ignore[attr-defined]
    assert without != tiny.model.config


def test_a_length_beside_the_parameters_counts_first() -> None:
    """As Phi's configs spell it, and as transformers reads it."""
    scaled = _tiny("llama", {**YARN, "original_max_position_embeddings": 8}, original_max_position_embeddings=16)
    assert scaled.model.config.rope_scaling.original_max_position_embeddings == 16  # type: ignore[union-attr]
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (1, 40))
    np.testing.assert_allclose(scaled.model.logits(tokens), scaled.torch_logits(tokens), rtol=1e-4, atol=1e-4)


FACTORS = ("short_factor", "long_factor", "original_max_position_embeddings")
PHI = {**LONGROPE, "short_factor": SHORT[:2], "long_factor": LONG[:2], "partial_rotary_factor": 0.5}


def test_phi3_within_its_original_context() -> None:
    """Which is told beside the parameters, whatever these tell. Beyond it: `test_longrope.py`."""
    tiny = _tiny("phi3", {**PHI, "original_max_position_embeddings": 8}, original_max_position_embeddings=32)
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 32))
    theirs = tiny.torch_logits(tokens)
    np.testing.assert_allclose(tiny.model.logits(tokens), theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    raw = {name: value for name, value in tiny.raw_config.items() if name != "rope_parameters"}
    for kind in ("su", "yarn", "longrope"):
        older = {**raw, "rope_theta": 300.0, "partial_rotary_factor": 0.5}
        older["rope_scaling"] = {"type": kind, **{name: PHI[name] for name in FACTORS}}
        assert from_huggingface(older) == tiny.model.config
        theirs = json.loads(transformers.Phi3Config(**older).to_json_string())
        assert from_huggingface(theirs) == tiny.model.config
    with pytest.raises(ConfigError, match="'linear' is not handled for phi3"):
        from_huggingface({**raw, "rope_scaling": {"type": "linear", "factor": 2.0}})


def test_where_both_spellings_are_there_the_older_counts() -> None:
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5e5}}
    raw = {"model_type": "llama", **SIZES, **both}
    theirs = transformers.LlamaConfig.from_dict(dict(raw)).rope_parameters
    config: Any = from_huggingface(raw)
    assert (config.rope_theta, config.rope_scaling.factor) == (theirs["rope_theta"], theirs["factor"])


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"rope_type": "dynamic"}, "dynamic.*lacks factor"),
        ({"rope_type": "yarn", "factor": "four"}, "factor='four'"),
        ({"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.5}, "attn_factor"),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1.0}, "rope_theta=1.0"),
        ({**LONGROPE, "short_factor": None}, "lacks short_factor"),
        ({**LONGROPE, "short_factor": 1.0}, "short_factor=1.0"),
        ({**LONGROPE, "short_factor": [1.0, "two"]}, "short_factor='two'"),
        ({**LONGROPE, "short_factor": [1.0] * 3}, f"3 short factors for the {HALF} frequencies"),
        ({"rope_type": "su", **{name: LONGROPE[name] for name in ("short_factor", "long_factor")}}, "'su'"),
        ({"rope_type": ["yarn"]}, "yarn"),
        ({"rope_type": "default", "mrope_section": [1, 1, 2]}, "mrope_section"),
    ],
)
def test_refused_by_name(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_huggingface({"model_type": "llama", **SIZES, "rope_parameters": parameters})

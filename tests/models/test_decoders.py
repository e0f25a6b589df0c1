"""The decoder families against transformers on torch, up a ladder of rungs, and the readers of their config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from transformers import GPTNeoXConfig as TorchNeoxConfig
from transformers import LlamaConfig as TorchLlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from jaxpaint.base.errors import UserError
from jaxpaint.models import abstract_parameters, from_dict, from_huggingface, rotary
from jaxpaint.models import attention as ops
from jaxpaint.models.fields import HIDDEN_ACTIVATIONS, ConfigError
from tests.helpers.decoders import LONGEST, NUM_LAYERS, VARIATIONS, VOCAB_SIZE, Tiny, make_tiny

LENGTHS = np.array([LONGEST, 3, 15])


@pytest.fixture(scope="module")
def hidden() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, LONGEST, 32)).astype(np.float32)


def _everything_visible(length: int) -> tuple[jax.Array, jax.Array]:
    """Positions and visibility of two unpadded rows."""
    positions = jnp.tile(jnp.arange(length), (2, 1))
    return positions, jnp.full((2, length), length)


def _torch_context(tiny: Tiny, layer: int, hidden: np.ndarray) -> dict[str, Any]:
    """transformers' rotary tables and an additive mask of a layer, written down from its definition."""
    length = hidden.shape[1]
    query, key = np.arange(length)[:, None], np.arange(length)[None, :]
    window = getattr(tiny.torch.config, "sliding_window", None) or length
    kinds = getattr(tiny.torch.config, "layer_types", None)
    if kinds and kinds[layer] == "full_attention":
        window = length
    seen = (key <= query) & (query - key < window)
    mask = torch.where(torch.tensor(seen), 0.0, torch.finfo(torch.float32).min).expand(2, 1, -1, -1)
    tables = _torch_tables(tiny, layer, torch.tensor(hidden), torch.arange(length)[None])
    return {"position_embeddings": tables, "attention_mask": mask}


def _torch_tables(tiny: Tiny, layer: int, hidden: torch.Tensor, positions: torch.Tensor) -> Any:
    """transformers' cosines and sines of a layer: Gemma 3 has some for each kind of layer."""
    config = tiny.torch.config
    kind = (config.layer_types[layer],) if "full_attention" in config.rope_parameters else ()
    return tiny.torch.base_model.rotary_emb(hidden, positions, *kind)


def _attention(layer: Any) -> Any:
    return layer.attention if hasattr(layer, "attention") else layer.self_attn


def _close(ours: Any, theirs: torch.Tensor, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


class TestLadder:
    """Each rung of every variation in float32. The tolerances are fixed: a failure has a cause."""

    def test_norm(self, tiny: Tiny, hidden: np.ndarray) -> None:
        for scale in (1.0, 0.01):  # where the statistics matter, and where epsilon does
            x = hidden * scale
            base = tiny.torch.base_model
            last = base.final_layer_norm if hasattr(base, "final_layer_norm") else base.norm
            _close(tiny.module.norm(jnp.array(x)), last(torch.tensor(x)), 1e-5)
            theirs = tiny.torch_layers[3].post_attention_layernorm(torch.tensor(x))
            _close(tiny.block(3).post_attention_layernorm(jnp.array(x)), theirs, 1e-5)

    def test_rope(self, tiny: Tiny) -> None:
        positions = np.random.default_rng(2).integers(0, 64, (2, 17))
        for layer in (0, 2):
            context = tiny.context(layer, jnp.array(positions), jnp.full((2, 17), 17))
            expected = _torch_tables(tiny, layer, torch.zeros(1), torch.tensor(positions))
            _close(context.cos[:, :, 0], expected[0], 1e-5)
            _close(context.sin[:, :, 0], expected[1], 1e-5)

    def test_attention(self, tiny: Tiny, hidden: np.ndarray) -> None:
        context = tiny.context(1, *_everything_visible(LONGEST))
        theirs, _ = _attention(tiny.torch_layers[1])(torch.tensor(hidden), **_torch_context(tiny, 1, hidden))
        _close(_attention(tiny.block(1))(jnp.array(hidden), context)[0], theirs, 1e-5)

    def test_mlp(self, tiny: Tiny, hidden: np.ndarray) -> None:
        _close(tiny.block(2).mlp(jnp.array(hidden)), tiny.torch_layers[2].mlp(torch.tensor(hidden)), 1e-5)

    def test_block(self, tiny: Tiny, hidden: np.ndarray) -> None:
        context = tiny.context(4, *_everything_visible(LONGEST))
        theirs = tiny.torch_layers[4](torch.tensor(hidden), **_torch_context(tiny, 4, hidden))
        _close(tiny.block(4)(jnp.array(hidden), context), theirs, 1e-5)

    def test_model(self, tiny: Tiny, texts: np.ndarray) -> None:
        ours = np.asarray(tiny.model.logits(texts, lengths=LENGTHS))
        theirs = tiny.torch_logits(texts, LENGTHS)
        assert ours.shape == (*texts.shape, VOCAB_SIZE)
        assert theirs.std() > 0.5, "logits this flat would not show a difference"
        for row, length in enumerate(LENGTHS):
            np.testing.assert_allclose(ours[row, :length], theirs[row, :length], rtol=1e-4, atol=1e-4)


def test_variations_differ(texts: np.ndarray) -> None:
    """A variation that left the logits alone would prove nothing."""
    first = {
        name: float(make_tiny(name).torch_logits(texts)[0, -1, 0]) for name in VARIATIONS if name != "no sliding window"
    }
    assert len({round(value, 5) for value in first.values()}) == len(first)


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        rotary.rope_tables(jnp.zeros(3, jnp.int32), np.ones(4, np.float32))


class TestLowPrecision:
    """bfloat16 has 8 bits: statistics kept in it would be wrong by far more than the rounding of a result."""

    def test_norm_statistics_are_float32(self) -> None:
        from flax import nnx

        x = jnp.array(1 + np.random.default_rng(0).random((4, 4096)), jnp.bfloat16)
        norm = nnx.RMSNorm(4096, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        exact = np.asarray(x, np.float64)
        exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
        assert norm(x).dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(norm(x), np.float64), exact, rtol=2**-8)

    def test_softmax_is_float32(self) -> None:
        """Scores of 30 and more, which bfloat16 would round by an eighth."""
        random = np.random.default_rng(0)
        query, key, value = (jnp.array(random.normal(size=(1, 600, 1, 16)), jnp.bfloat16) for _ in range(3))
        query = query * 8
        mask = jnp.ones((1, 1, 600, 600), bool)
        exact = ops.attention(*(array.astype(jnp.float32) for array in (query, key, value)), mask)
        mixed = ops.attention(query, key, value, mask)
        assert mixed.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(mixed, np.float32), exact, atol=2**-6)


def test_abstract_parameters_name_every_parameter(tiny: Tiny) -> None:
    from flax import nnx
    from flax.traverse_util import flatten_dict

    real = flatten_dict(nnx.to_pure_dict(tiny.model.state), sep="/")
    abstract = abstract_parameters(tiny.model.config, jnp.float32)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in real.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in abstract.items()
    }
    assert all(leaf.shape[0] == NUM_LAYERS for path, leaf in abstract.items() if path.startswith("blocks/"))


class TestLogitsRefusals:
    @pytest.mark.parametrize(
        ("tokens", "lengths", "named"),
        [
            (np.zeros((1, 3)), None, "float64"),
            (np.zeros(3, int), None, r"\(3,\)"),
            (np.zeros((1, 0), int), None, r"\(1, 0\)"),
            (np.array([[0, VOCAB_SIZE]]), None, str(VOCAB_SIZE)),
            (np.array([[0, -1]]), None, "-1"),
            (np.zeros((1, 65), int), None, "65 positions"),
            (np.zeros((2, 3), int), [3], "lengths"),
            (np.zeros((1, 3), int), [0], "lengths"),
            (np.zeros((1, 3), int), [4], "lengths"),
        ],
    )
    def test_bad_tokens(self, tokens: np.ndarray, lengths: Any, named: str) -> None:
        with pytest.raises(UserError, match=named):
            make_tiny("grouped-query").model.logits(tokens, lengths=lengths)


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class TestConfig:
    def test_reads_what_transformers_writes(self, tiny: Tiny) -> None:
        config, theirs = from_huggingface(tiny.raw_config), tiny.torch.config
        for field in dataclasses.fields(config):
            if field.name not in ("rope_theta", "rope_scaling") and hasattr(theirs, field.name):
                value = getattr(config, field.name)
                value = list(value) if isinstance(value, tuple) else value
                assert value == getattr(theirs, field.name), field.name
        parameters = theirs.rope_parameters
        assert config.rope_theta == parameters.get("full_attention", parameters)["rope_theta"]

    def test_round_trip(self, tiny: Tiny) -> None:
        config = tiny.model.config
        assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert hash(config) == hash(from_dict(config.to_dict()))

    def test_silent_attributes_take_the_defaults_of_transformers(self) -> None:
        config = from_huggingface(LLAMA)
        theirs = TorchLlamaConfig(**{name: value for name, value in LLAMA.items() if name != "model_type"})
        for name in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act"):
            assert getattr(config, name) == getattr(theirs, name), name
        assert config.rope_theta == theirs.rope_parameters["rope_theta"]
        mistral = from_huggingface({**LLAMA, "model_type": "mistral", "num_attention_heads": 8})
        assert mistral.sliding_window == 4096
        assert mistral.num_key_value_heads == 8

    @pytest.mark.parametrize("spelt", ["rope_type", "type"])
    @pytest.mark.parametrize(
        ("kind", "scaling"), [("default", {}), ("linear", {"factor": 2.0}), ("llama3", LLAMA3_SCALING)]
    )
    def test_both_rope_spellings(self, kind: str, scaling: dict[str, float], spelt: str) -> None:
        old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {spelt: kind, **scaling}}
        new = {**LLAMA, "rope_parameters": {"rope_theta": 5e5, "rope_type": kind, **scaling}}
        assert from_huggingface(old) == from_huggingface(new)
        assert from_huggingface(old).rope_theta == 5e5
        assert (from_huggingface(old).rope_scaling is None) == (kind == "default")

    def test_old_null_scaling(self) -> None:
        config = from_huggingface({**LLAMA, "rope_theta": 5e5, "rope_scaling": None})
        assert (config.rope_theta, config.rope_scaling) == (5e5, None)

    def test_llama3_rope_without_original_length(self) -> None:
        """transformers falls back on max_position_embeddings."""
        scaling = {name: value for name, value in LLAMA3_SCALING.items() if not name.startswith("original")}
        raw = {**LLAMA, "max_position_embeddings": 64, "rope_scaling": {"rope_type": "llama3", **scaling}}
        config = from_huggingface(raw)
        theirs = LlamaRotaryEmbedding(TorchLlamaConfig(**{k: v for k, v in raw.items() if k != "model_type"}))
        ours = rotary.rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
            ({"quantization_config": {"bits": 4}}, "quantization_config"),
            ({"use_sliding_window": True}, "use_sliding_window=True"),
            ({"something_new": "on"}, "something_new='on'"),
            ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 2.0}}, "yarn"),
            ({"rope_scaling": {"type": "dynamic"}}, "dynamic"),
            ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "longrope"),
            ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
            ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
            ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"),
            ({"model_type": "gpt_bigcode"}, "model_type 'gpt_bigcode'"),
            ({"model_type": None}, "model_type None"),
            ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
            ({"hidden_size": None}, "hidden_size"),
            ({"hidden_size": "wide"}, "hidden_size"),
            ({"rope_scaling": "linear"}, "rope_scaling"),
            ({"head_dim": 5}, "head_dim"),
        ],
    )
    def test_refused_by_name(self, change: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigError, match=named):
            from_huggingface({**LLAMA, **change})

    def test_gpt_neox_in_the_spelling_of_its_checkpoints(self) -> None:
        """Pythia's own config.json; what it does not say is as transformers has it."""
        raw = {**LLAMA, "model_type": "gpt_neox", "hidden_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 5000}
        config = from_huggingface(raw)
        theirs = TorchNeoxConfig(**{name: value for name, value in raw.items() if name != "model_type"})
        assert (config.rotary_dim, config.rope_theta) == (8, theirs.rope_parameters["rope_theta"])
        new = {key: value for key, value in raw.items() if not key.startswith("rotary")}
        assert from_huggingface({**new, "rope_parameters": theirs.rope_parameters}) == config
        assert from_huggingface(new).rotary_dim == 4
        for name in (
            "max_position_embeddings",
            "layer_norm_eps",
            "hidden_act",
            "use_parallel_residual",
            "attention_bias",
        ):
            assert getattr(config, name) == getattr(theirs, name), name

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"rotary_pct": 2.0}, "rotary_pct=2.0"),
            ({"rotary_pct": 0.2}, "turns 0 of a head's 4"),
            ({"rotary_pct": "most"}, "rotary_pct='most'"),
            ({"num_attention_heads": 3}, "num_attention_heads=3"),
            ({"use_parallel_residual": "yes"}, "use_parallel_residual='yes'"),
            ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
            ({"rope_theta": 5000.0}, "rope_theta"),
            ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ],
    )
    def test_gpt_neox_refused_by_name(self, change: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigError, match=named):
            from_huggingface({**LLAMA, "model_type": "gpt_neox", "rotary_pct": 0.5, **change})

    @pytest.mark.parametrize("name", [name for name in LLAMA if name != "model_type"])
    def test_missing_numbers_are_named(self, name: str) -> None:
        with pytest.raises(ConfigError, match=name):
            from_huggingface({key: value for key, value in LLAMA.items() if key != name})

    @pytest.mark.parametrize("off", [None, False, 0, 0.0, "", [], {}])
    def test_unknown_attributes_that_are_off_change_nothing(self, off: Any) -> None:
        assert from_huggingface({**LLAMA, "something_new": off}) == from_huggingface(LLAMA)

    @pytest.mark.parametrize("name", ["max_position_embeddings", "rms_norm_eps", "num_key_value_heads", "head_dim"])
    def test_null_is_as_good_as_silence(self, name: str) -> None:
        assert from_huggingface({**LLAMA, name: None}) == from_huggingface(LLAMA)

    def test_harmless_attributes_are_accepted(self) -> None:
        harmless = {
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "use_cache": True,
            "architectures": ["LlamaForCausalLM"],
        }
        assert from_huggingface({**LLAMA, **harmless}) == from_huggingface(LLAMA)

    @pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
    def test_every_activation_is_that_of_transformers(self, name: str) -> None:
        from transformers.activations import ACT2FN

        activation: Callable[[Any], Any] = ops.activation(name)
        x = np.linspace(-6, 6, 301, dtype=np.float32)
        np.testing.assert_allclose(activation(x), ACT2FN[name](torch.tensor(x)).numpy(), atol=1e-6)

"""Frozen architecture descriptions, read from a checkpoint's own Hugging Face `config.json`.

Every number comes from the checkpoint. An attribute that could change the result and is not handled here is
refused by name, so that a model is never run as something it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxpaint.errors import UserError


class ConfigError(UserError):
    """A checkpoint's configuration that this project cannot reproduce faithfully."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are rescaled (transformers `modeling_rope_utils`): `linear` or `llama3`.

    `linear` divides every frequency by `factor`; `llama3` divides the low ones, keeps the high ones and blends
    between, by wavelength relative to `original_max_position_embeddings` (in tokens).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """The Llama family: Llama 1/2/3, Mistral, SmolLM, TinyLlama and kin. `sliding_window` is in tokens."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LlamaConfig:
        scaling = values.get("rope_scaling")
        return cls(**{**values, "rope_scaling": RopeScaling(**scaling) if scaling else None})


HIDDEN_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

# Attributes that leave the logits of a frozen model as they are.
HARMLESS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "model_type",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
        "initializer_range",
        "pretraining_tp",
        "attention_dropout",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "is_llama_config",
        "transformers.js_config",
        "task_specific_params",
        "id2label",
        "label2id",
        "problem_type",
        "finetuning_task",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_implementation",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "tokenizer_class",
        "unsloth_version",
        "unsloth_fixed",
        # Settings of generation, which older configs carry.
        "max_length",
        "min_length",
        "temperature",
        "top_k",
        "top_p",
        "do_sample",
        "num_beams",
        "repetition_penalty",
        "chat_template",
    }
)
# Values that transformers assumes where a config.json is silent, by model type.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "sliding_window": None},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096, "num_key_value_heads": 8},
}
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def from_huggingface(raw: Mapping[str, Any]) -> LlamaConfig:
    """Reads a Hugging Face `config.json` (of transformers 4 or 5) of the Llama family.

    Raises ConfigError for an unknown model type, a missing number, or an attribute that would change the result
    and is not handled.
    """
    model_type = raw.get("model_type")
    if model_type not in DEFAULTS:
        raise ConfigError(
            f"model_type {model_type!r} is not one this version converts; it knows {', '.join(sorted(DEFAULTS))}"
        )
    missing = [name for name in REQUIRED if raw.get(name) is None]
    if missing:
        raise ConfigError(f"config.json lacks {', '.join(missing)}: is it the config of a {model_type} checkpoint?")
    values = {**DEFAULTS[model_type], **raw}
    default_length = DEFAULTS[model_type]["max_position_embeddings"]
    rope_theta, rope_scaling = _rope(values)
    fields = {field.name for field in dataclasses.fields(LlamaConfig)}
    handled = fields | {"rope_parameters", "rope_scaling", "rope_theta"} | HARMLESS
    # An attribute that is off (null, false, zero, empty) changes nothing, whatever it means when on.
    unhandled = {name: value for name, value in raw.items() if name not in handled and value}
    if unhandled:
        listed = ", ".join(f"{name}={value!r}" for name, value in sorted(unhandled.items()))
        raise ConfigError(
            f"config.json sets {listed}, which jaxpaint does not handle for {model_type} and which may change the "
            "result; remove it from config.json only if you know that it does not"
        )
    numbers = {name: _number(values, name) for name in REQUIRED}
    heads = numbers["num_attention_heads"]
    key_value_heads = _number(values, "num_key_value_heads", heads)
    if heads % key_value_heads:
        raise ConfigError(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value_heads}")
    head_dim = _number(values, "head_dim", numbers["hidden_size"] // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim={head_dim} is odd: rotary positions turn halves of a head against each other")
    hidden_act = values.get("hidden_act") or "silu"
    if hidden_act not in HIDDEN_ACTIVATIONS:
        raise ConfigError(f"hidden_act={hidden_act!r} is not handled; known: {', '.join(HIDDEN_ACTIVATIONS)}")
    windowed = model_type == "mistral" and values.get("sliding_window") is not None
    return LlamaConfig(
        model_type=model_type,
        **numbers,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=_number(values, "max_position_embeddings", default_length),
        rms_norm_eps=_number(values, "rms_norm_eps", 1e-6, float),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        sliding_window=_number(values, "sliding_window") if windowed else None,
        tie_word_embeddings=_switch(values, "tie_word_embeddings"),
        attention_bias=_switch(values, "attention_bias"),
        mlp_bias=_switch(values, "mlp_bias"),
        hidden_act=hidden_act,
    )


def _number(values: Mapping[str, Any], name: str, default: float | None = None, kind: type = int) -> Any:
    """A positive number; null is as good as silence."""
    value = default if values.get(name) is None else values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or value != kind(value):
        raise ConfigError(f"{name}={value!r} in config.json is not a positive {'whole ' * (kind is int)}number")
    return kind(value)


def _switch(values: Mapping[str, Any], name: str) -> bool:
    """True or false; silent and null are false."""
    value = values.get(name) or False
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} in config.json is neither true nor false")
    return value


def _rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Both spellings: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5)."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name) or {}, Mapping):
            raise ConfigError(f"{name}={values[name]!r} in config.json is not an object of rope parameters")
    parameters = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    in_parameters = parameters.pop("rope_theta", None)
    theta = _number(values if in_parameters is None else {"rope_theta": in_parameters}, "rope_theta", 10000.0, float)
    rope_type = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    known = {field.name for field in dataclasses.fields(RopeScaling)}
    strange = {name: value for name, value in parameters.items() if name not in known and value not in (None, 1.0)}
    if rope_type not in ("default", "linear", "llama3") or strange:
        detail = f" with {strange}" if strange else ""
        raise ConfigError(f"rope scaling {rope_type!r}{detail} is not handled; known types: default, linear, llama3")
    if rope_type == "default":
        return theta, None
    if rope_type == "llama3" and parameters.get("original_max_position_embeddings") is None:
        # As transformers' `standardize_rope_params` does.
        parameters["original_max_position_embeddings"] = values["max_position_embeddings"]
    required = ("factor", "low_freq_factor", "high_freq_factor") if rope_type == "llama3" else ("factor",)
    lacking = [name for name in required if parameters.get(name) is None]
    if lacking:
        raise ConfigError(f"rope scaling {rope_type!r} in config.json lacks {', '.join(lacking)}")
    scaling = {name: _number(parameters, name, kind=float) for name in required}
    if rope_type == "llama3":
        scaling["original_max_position_embeddings"] = _number(parameters, "original_max_position_embeddings")
        if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise ConfigError(
                f"rope scaling 'llama3' has low_freq_factor={scaling['low_freq_factor']} not below "
                f"high_freq_factor={scaling['high_freq_factor']}"
            )
    return theta, RopeScaling(rope_type="llama3" if rope_type == "llama3" else "linear", **scaling)

"""The Llama family's architecture, and its reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.fields import (
    ConfigError,
    RopeScaling,
    activation,
    number,
    refuse_unhandled,
    rope,
    rope_parameters,
    sizes,
    switch,
)


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
        """Plain values for JSON; `config.from_dict` reads them back."""
        return dataclasses.asdict(self)


# Values that transformers assumes where a config.json is silent, by model type.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "sliding_window": None},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096, "num_key_value_heads": 8},
}


def from_huggingface(raw: Mapping[str, Any]) -> LlamaConfig:
    """Reads the `config.json` of a Llama or Mistral. Raises ConfigError."""
    model_type = raw["model_type"]
    numbers = sizes(raw)
    values = {**DEFAULTS[model_type], **raw}
    length = number(values, "max_position_embeddings", DEFAULTS[model_type]["max_position_embeddings"])
    rope_theta, rope_scaling = rope(rope_parameters(values), values.get("rope_theta"), length)
    fields = {field.name for field in dataclasses.fields(LlamaConfig)}
    refuse_unhandled(raw, fields | {"rope_parameters"})
    heads = numbers["num_attention_heads"]
    key_value_heads = number(values, "num_key_value_heads", heads)
    if heads % key_value_heads:
        raise ConfigError(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value_heads}")
    head_dim = number(values, "head_dim", numbers["hidden_size"] // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim={head_dim} is odd: rotary positions turn halves of a head against each other")
    windowed = model_type == "mistral" and values.get("sliding_window") is not None
    return LlamaConfig(
        model_type=model_type,
        **numbers,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=length,
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        sliding_window=number(values, "sliding_window") if windowed else None,
        tie_word_embeddings=switch(values, "tie_word_embeddings"),
        attention_bias=switch(values, "attention_bias"),
        mlp_bias=switch(values, "mlp_bias"),
        hidden_act=activation(values, "silu"),
    )

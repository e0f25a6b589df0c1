"""GPT-NeoX's architecture (Pythia and kin), and its reader."""

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
class NeoxConfig:
    """GPT-NeoX: Pythia and kin. The first `rotary_dim` numbers of each head turn with the position."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float
    rotary_dim: int
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    use_parallel_residual: bool = True
    tie_word_embeddings: bool = False
    attention_bias: bool = True
    hidden_act: str = "gelu"

    @property
    def num_key_value_heads(self) -> int:
        """As many as query heads."""
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def sliding_window(self) -> None:
        """None: every token sees all before it."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `config.from_dict` reads them back."""
        return dataclasses.asdict(self)


DEFAULT_LENGTH, DEFAULT_ROTARY = 2048, 0.25  # where a config.json is silent, as transformers' GPTNeoXConfig


def from_huggingface(raw: Mapping[str, Any]) -> NeoxConfig:
    """Reads the `config.json` of a GPT-NeoX. Raises ConfigError."""
    numbers = sizes(raw)
    length = number(raw, "max_position_embeddings", DEFAULT_LENGTH)
    parameters = rope_parameters(raw)
    rotary = {"rotary_pct": parameters.pop("partial_rotary_factor", None) or raw.get("rotary_pct")}
    rope_theta, rope_scaling = rope(parameters, raw.get("rotary_emb_base"), length)
    fields = {field.name for field in dataclasses.fields(NeoxConfig)} - {"rotary_dim", "rope_theta"}
    refuse_unhandled(raw, fields | {"rope_parameters", "rotary_pct", "rotary_emb_base", "is_decoder"})
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if hidden_size % heads:
        raise ConfigError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={heads}")
    rotary_dim = int(hidden_size // heads * number(rotary, "rotary_pct", DEFAULT_ROTARY, float))
    if rotary_dim % 2 or not 0 < rotary_dim <= hidden_size // heads:
        raise ConfigError(
            f"rotary_pct={rotary['rotary_pct']} turns {rotary_dim} of a head's {hidden_size // heads} numbers: rotary "
            "positions turn halves of an even part of a head against each other"
        )
    return NeoxConfig(
        model_type=raw["model_type"],
        **numbers,
        max_position_embeddings=length,
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-5, float),
        rotary_dim=rotary_dim,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        use_parallel_residual=switch(raw, "use_parallel_residual", default=True),
        tie_word_embeddings=switch(raw, "tie_word_embeddings"),
        attention_bias=switch(raw, "attention_bias", default=True),
        hidden_act=activation(raw, "gelu"),
    )

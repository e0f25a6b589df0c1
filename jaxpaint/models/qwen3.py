"""Qwen3, dense: Llama with a norm of each head's queries and keys, and sliding windows in some of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import WINDOWS, decoder_fields, grouped_heads, names_of, number, switch, windows_of_layers
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Qwen3Config(Sizes):
    """Qwen3: `layer_types` name each layer's kind of attention, as transformers does."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    layer_types: tuple[str, ...]
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Llama's, with queries and keys normed head by head before they turn."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types),
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            query_key_norm="head",
            rotary_dim=self.head_dim,
        )


def read(raw: Mapping[str, Any]) -> Qwen3Config:
    """Reads the `config.json` of a Qwen3. Raises ConfigError."""
    fields = decoder_fields(raw, names_of(Qwen3Config) | WINDOWS, 32768)
    return Qwen3Config(
        **fields,
        **grouped_heads({"num_key_value_heads": 32, **raw, "head_dim": number(raw, "head_dim", 128)}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6, float),
        **windows_of_layers(raw),
        attention_bias=switch(raw, "attention_bias"),
    )


FAMILY = Family(("qwen3",), Qwen3Config, read, decoder_names("model", "embed_tokens", "norm"))

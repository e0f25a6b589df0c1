"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and sliding windows in some of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import WINDOWS, decoder_fields, grouped_heads, names_of, number, windows_of_layers
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Qwen2Config(Sizes):
    """Qwen2: `layer_types` name each layer's kind of attention, as transformers does."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    layer_types: tuple[str, ...]
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Llama's, with biases where transformers builds them whatever config.json says."""
        windows = tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types)
        return Traits("rms", self.rms_norm_eps, windows, input_bias=True, rotary_dim=self.head_dim)


def read(raw: Mapping[str, Any]) -> Qwen2Config:
    """Reads the `config.json` of a Qwen2. Raises ConfigError."""
    fields = decoder_fields(raw, names_of(Qwen2Config) | WINDOWS, 32768)
    return Qwen2Config(
        **fields,
        **grouped_heads({"num_key_value_heads": 32, **raw}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6, float),
        **windows_of_layers(raw),
    )


FAMILY = Family(("qwen2",), Qwen2Config, read, decoder_names("model", "embed_tokens", "norm"))

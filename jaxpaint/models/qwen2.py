"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and sliding windows in some of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import checked, shown
from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import ConfigError, decoder_fields, grouped_heads, names_of, number, switch
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
    fields = decoder_fields(raw, names_of(Qwen2Config) | {"use_sliding_window", "max_window_layers"}, 32768)
    window = number(raw, "sliding_window", 4096) if switch(raw, "use_sliding_window") else None
    layers = range(fields["num_hidden_layers"])
    full = checked({"max_window_layers": 28, **raw}["max_window_layers"], int, "max_window_layers in config.json")
    of_full = range(full if window else len(layers))
    named = checked(raw.get("layer_types"), list[str] | None, "layer_types in config.json")  # type: ignore[arg-type]
    kinds = tuple(named or ("full_attention" if layer in of_full else "sliding_attention" for layer in layers))
    if set(kinds) - {"full_attention", *(["sliding_attention"] if window else [])} or len(kinds) != len(layers):
        raise ConfigError(
            f"layer_types={shown(list(kinds))} is not handled for {len(layers)} layers of window {window}"
        )
    return Qwen2Config(
        **fields,
        **grouped_heads({"num_key_value_heads": 32, **raw}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6, float),
        sliding_window=window,
        layer_types=kinds,
    )


FAMILY = Family(("qwen2",), Qwen2Config, read, decoder_names("model", "embed_tokens", "norm"))

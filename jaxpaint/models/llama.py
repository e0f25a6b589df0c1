"""The Llama family: Llama 1/2/3, Mistral, SmolLM, TinyLlama. Parity with transformers is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class LlamaConfig(Sizes):
    """The Llama family: Llama 1/2/3, Mistral, SmolLM, TinyLlama and kin. `sliding_window` is in tokens."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """RMS norms before each half, a gated feed-forward, biases where the config has them."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=(self.sliding_window,) * self.num_hidden_layers,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            rotary_dim=self.head_dim,
        )


# Values that transformers assumes where a config.json is silent, by model type.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "sliding_window": None},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096, "num_key_value_heads": 8},
}


def read(raw: Mapping[str, Any]) -> LlamaConfig:
    """Reads the `config.json` of a Llama or Mistral. Raises ConfigError."""
    defaults = DEFAULTS[raw["model_type"]]
    values = {**defaults, **raw}
    windowed = raw["model_type"] == "mistral" and values["sliding_window"] is not None
    return LlamaConfig(
        **decoder_fields(raw, names_of(LlamaConfig), defaults["max_position_embeddings"]),
        **grouped_heads(values),
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        sliding_window=number(values, "sliding_window") if windowed else None,
        attention_bias=switch(values, "attention_bias"),
        mlp_bias=switch(values, "mlp_bias"),
    )


NAMES = decoder_names("model", "embed_tokens", "norm")
FAMILY = Family(("llama", "mistral"), LlamaConfig, read, NAMES)

"""OLMo 2: Llama with norms after each half in place of before, and norms of all queries and all keys of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Olmo2Config(Sizes):
    """OLMo 2, of 1 to 32 billion parameters."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Scaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """What each half writes is normed, not what it reads."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=(None,) * self.num_hidden_layers,
            norms=(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            query_key_norm="projection",
            rotary_dim=self.head_dim,
        )


def read(raw: Mapping[str, Any]) -> Olmo2Config:
    """Reads the `config.json` of an OLMo 2. Raises ConfigError."""
    return Olmo2Config(
        **decoder_fields(raw, names_of(Olmo2Config), 2048),
        **grouped_heads(raw),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-5, float),
        attention_bias=switch(raw, "attention_bias"),
    )


FAMILY = Family(("olmo2",), Olmo2Config, read, decoder_names("model", "embed_tokens", "norm"))

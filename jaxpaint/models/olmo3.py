"""OLMo 3: OLMo 2 with sliding windows in most layers, whose rotary positions are not rescaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Rotary, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.layer_kinds import kinds_of_layers, rope_of_kinds
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Olmo3Config(Sizes):
    """OLMo 3: layers with a window turn by `rope_local_theta`, the others by `rope_theta` and `rope_scaling`."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_local_theta: float
    layer_types: tuple[str, ...]
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """OLMo 2's, with each layer's window and rotary positions."""
        local, whole = Rotary(self.rope_local_theta), Rotary(self.rope_theta, self.rope_scaling)
        has_window = [kind == "sliding_attention" for kind in self.layer_types]
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=tuple(self.sliding_window if windowed else None for windowed in has_window),
            norms=(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            query_key_norm="projection",
            rotary_dim=self.head_dim,
            rotary=tuple(local if windowed else whole for windowed in has_window),
        )


THETA = 5e5  # as `Olmo3Config` has it, of layers with a window even where config.json says another of the others


def read(raw: Mapping[str, Any]) -> Olmo3Config:
    """Reads the `config.json` of an OLMo 3. Raises ConfigError."""
    whole, local = rope_of_kinds(raw, THETA, THETA)
    return Olmo3Config(
        **decoder_fields(raw, names_of(Olmo3Config) - {"rope_local_theta"}, 2048, parameters=whole),
        **grouped_heads(raw),
        **kinds_of_layers(raw, 4),
        rope_local_theta=local,
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-5, float),
        attention_bias=switch(raw, "attention_bias"),
    )


FAMILY = Family(("olmo3",), Olmo3Config, read, decoder_names("model", "embed_tokens", "norm"))

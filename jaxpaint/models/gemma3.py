"""Gemma 3, of texts: Gemma 2 with normed queries and keys in place of caps, and rotary positions of two bases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Rotary, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, names_of, number, switch
from jaxpaint.models.gemma import with_tanh
from jaxpaint.models.gemma2 import NORMS, attention_scale, cap, of_attention
from jaxpaint.models.layer_kinds import rope_of_kinds, said
from jaxpaint.models.scalings import Scaling

WITH_IMAGES = ("gemma3",)  # whose part of texts is a gemma3_text


@dataclass(frozen=True)
class Gemma3Config(Sizes):
    """Gemma 3: layers with a window turn by `rope_local_base_freq`, the others by `rope_theta` and `rope_scaling`."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_local_base_freq: float
    layer_types: tuple[str, ...]
    query_pre_attn_scalar: float
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Gemma 2's, with norms of each head's queries and keys, and each layer's rotary positions."""
        local, whole = Rotary(self.rope_local_base_freq), Rotary(self.rope_theta, self.rope_scaling)
        has_window = [kind == "sliding_attention" for kind in self.layer_types]
        return Traits(
            "rms",
            self.rms_norm_eps,
            tuple(self.sliding_window if windowed else None for windowed in has_window),
            norms=NORMS,
            norm_offset=True,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            query_key_norm="head",
            rotary_dim=self.head_dim,
            rotary=tuple(local if windowed else whole for windowed in has_window),
            attention_scale=attention_scale(self.query_pre_attn_scalar, self.head_dim),
            logit_cap=self.final_logit_softcapping,
            embedding_scale=self.hidden_size**0.5,
        )


def read(raw: Mapping[str, Any]) -> Gemma3Config:
    """Reads the `config.json` of a Gemma 3 of texts. Raises ConfigError."""
    values, (whole, local) = said(raw), rope_of_kinds(raw, 1e6, 1e4)
    handled = names_of(Gemma3Config) | {"hidden_activation", "sliding_window_pattern"}
    fields = decoder_fields(with_tanh(values, "hidden_activation", "hidden_act"), handled, 131072, parameters=whole)
    return Gemma3Config(
        **{**fields, "tie_word_embeddings": switch(values, "tie_word_embeddings", True)},
        **of_attention(raw, number(values, "sliding_window_pattern", 6)),
        rope_local_base_freq=local,
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        final_logit_softcapping=cap(raw, "final_logit_softcapping", None),
    )


FAMILY = Family(("gemma3_text",), Gemma3Config, read, decoder_names("model", "embed_tokens", "norm"))

"""Gemma 2: Gemma with norms on both sides of each half, caps on scores and logits, and windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Capabilities, Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.gemma import with_tanh
from jaxpaint.models.layer_kinds import kinds_of_layers, said
from jaxpaint.models.scalings import Scaling

NORMS = (
    *("input_layernorm", "post_attention_layernorm"),
    *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)


@dataclass(frozen=True)
class Gemma2Config(Sizes):
    """Gemma 2: scores are divided by the root of `query_pre_attn_scalar`, and `layer_types` name kinds of attention."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    layer_types: tuple[str, ...]
    query_pre_attn_scalar: float
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    has_lm_head: bool = True

    @property
    def capabilities(self) -> Capabilities:
        """A decoder's; cuDNN's attention knows no caps."""
        return Capabilities(lm_head=self.has_lm_head, flash_attention=self.attn_logit_softcapping is None)

    @property
    def traits(self) -> Traits:
        """Four norms less 1, caps, and each layer's window."""
        return Traits(
            "rms",
            self.rms_norm_eps,
            tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types),
            norms=NORMS,
            norm_offset=True,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            rotary_dim=self.head_dim,
            attention_scale=attention_scale(self.query_pre_attn_scalar, self.head_dim),
            attention_cap=self.attn_logit_softcapping,
            logit_cap=self.final_logit_softcapping,
            embedding_scale=self.hidden_size**0.5,
        )


def read(raw: Mapping[str, Any]) -> Gemma2Config:
    """Reads the `config.json` of a Gemma 2. Raises ConfigError."""
    values = said(raw)
    handled = names_of(Gemma2Config) | {"hidden_activation"}
    fields = decoder_fields(with_tanh(values, "hidden_activation", "hidden_act"), handled, 8192)
    return Gemma2Config(
        **{**fields, "tie_word_embeddings": switch(values, "tie_word_embeddings", True)},
        **of_attention(raw, 2),
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        attn_logit_softcapping=cap(raw, "attn_logit_softcapping", 50.0),
        final_logit_softcapping=cap(raw, "final_logit_softcapping", 30.0),
    )


def of_attention(raw: Mapping[str, Any], pattern: int) -> dict[str, Any]:
    """What Gemma 2 and 3 say alike of their attention.

    Where config.json names no `layer_types`, every `pattern`th layer attends in full and the others have the window.

    Raises:
        ConfigError: other kinds of layers, or no window where some have one.
    """
    values = {"num_key_value_heads": 4, "head_dim": 256, **said(raw)}
    return {
        **grouped_heads(values),
        **kinds_of_layers(raw, pattern),
        "query_pre_attn_scalar": number(values, "query_pre_attn_scalar", 256, float),
        "attention_bias": switch(values, "attention_bias"),
    }


def attention_scale(query_pre_attn_scalar: float, head_dim: int) -> float | None:
    """What scores are multiplied with; None where it is what they are anyway."""
    return None if query_pre_attn_scalar == head_dim else query_pre_attn_scalar**-0.5


def cap(raw: Mapping[str, Any], name: str, silent: float | None) -> float | None:
    """A cap; null is none, and silence is `silent`."""
    value = raw.get(name, silent)
    return None if value is None else number({name: value}, name, kind=float)


FAMILY = Family(("gemma2",), Gemma2Config, read, decoder_names("model", "embed_tokens", "norm"))

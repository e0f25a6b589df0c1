"""Gemma 3, of texts: Gemma 2 with normed queries and keys in place of caps, and rotary positions of two bases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Family, Rotary, Sizes, Traits, decoder_names
from jaxpaint.models.fields import (
    ConfigError,
    decoder_fields,
    names_of,
    number,
    rope_parameters,
    rope_type,
    switch,
)
from jaxpaint.models.gemma import said, with_tanh
from jaxpaint.models.gemma2 import NORMS, attention_scale, cap, of_attention
from jaxpaint.models.scalings import Scaling

KINDS = "full_attention", "sliding_attention"
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
    values, (whole, local) = said(raw), _rotary(raw)
    handled = names_of(Gemma3Config) | {"hidden_activation", "sliding_window_pattern"}
    fields = decoder_fields(with_tanh(values, "hidden_activation", "hidden_act"), handled, 131072, parameters=whole)
    return Gemma3Config(
        **{**fields, "tie_word_embeddings": switch(values, "tie_word_embeddings", True)},
        **of_attention(raw, number(values, "sliding_window_pattern", 6)),
        rope_local_base_freq=local,
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        final_logit_softcapping=cap(raw, "final_logit_softcapping", None),
    )


def _rotary(raw: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """`(rope parameters of full attention, rotary base of layers with a window)`, as transformers' `Gemma3TextConfig`.

    transformers 5 writes `rope_parameters` for each kind of layer; 4 wrote `rope_theta`, `rope_local_base_freq` and
    `rope_scaling`, of which the scaling counts before the former and the bases where these are silent.

    Raises:
        ConfigError: parameters of other kinds, a scaling beside a window, or one that depends on a text's length.
    """
    rope_parameters(raw)  # both are objects, if they are there
    of_kinds = said(raw.get("rope_parameters") or {})
    if strange := {name: each for name, each in of_kinds.items() if name not in KINDS or not isinstance(each, Mapping)}:
        raise ConfigError(
            f"rope_parameters of a {raw['model_type']} are an object for each of {' and '.join(KINDS)}, and those in "
            f"config.json have {shown(strange)}"
        )
    whole, local = (said(of_kinds.get(kind, {})) for kind in KINDS)
    scaling = rope_parameters({**raw, "rope_parameters": None})
    whole = {"rope_theta": number(raw, "rope_theta", 1e6, float), **whole, **said(scaling)}
    if rope_type(whole) in ("dynamic", "longrope"):
        raise ConfigError(f"rope scaling {rope_type(whole)!r} is not handled for a {raw['model_type']}")
    base = local.pop("rope_theta", raw.get("rope_local_base_freq"))
    if local not in ({}, {"rope_type": "default"}):
        raise ConfigError(
            f"rope_parameters of sliding_attention in config.json have {shown(local)}, which is not handled"
        )
    return whole, number({"rope_local_base_freq": base}, "rope_local_base_freq", 1e4, float)


FAMILY = Family(("gemma3_text",), Gemma3Config, read, decoder_names("model", "embed_tokens", "norm"))

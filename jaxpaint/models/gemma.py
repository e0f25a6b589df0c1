"""Gemma: Llama with scaled embeddings, norms whose scales are stored less 1, and a tanh GELU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import ConfigError, decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.layer_kinds import said
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class GemmaConfig(Sizes):
    """Gemma and CodeGemma."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Scaling | None = None
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Llama's, with norms less 1; embeddings are as long as the root of their size."""
        return Traits(
            "rms",
            self.rms_norm_eps,
            (None,) * self.num_hidden_layers,
            norm_offset=True,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            rotary_dim=self.head_dim,
            embedding_scale=self.hidden_size**0.5,
        )


def read(raw: Mapping[str, Any]) -> GemmaConfig:
    """Reads the `config.json` of a Gemma. Raises ConfigError."""
    values = {"num_key_value_heads": 16, "head_dim": 256, **said(raw)}
    fields = decoder_fields(
        with_tanh(values, "hidden_act", "hidden_activation"), names_of(GemmaConfig) | {"hidden_activation"}, 8192
    )
    return GemmaConfig(
        **{**fields, "tie_word_embeddings": switch(values, "tie_word_embeddings", True)},
        **grouped_heads(values),
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, float),
        attention_bias=switch(values, "attention_bias"),
    )


def with_tanh(values: Mapping[str, Any], read: str, other: str) -> dict[str, Any]:
    """The values with `hidden_act` from the name that transformers reads; silence is `gelu_pytorch_tanh`.

    Configs have `gelu` for it beside the other name, as the first Gemma's have in place of it. Raises ConfigError
    where the other name says something else.
    """
    chosen = values.get(read, "gelu_pytorch_tanh")
    if chosen == "gelu" and read == "hidden_act":
        chosen = "gelu_pytorch_tanh"
    if values.get(other) not in (None, chosen, "gelu"):
        raise ConfigError(
            f"config.json has {read}={shown(chosen)} and {other}={shown(values[other])}: of a {values['model_type']} "
            f"the first is read; remove {other} if that is right"
        )
    return {**values, "hidden_act": chosen}


FAMILY = Family(("gemma",), GemmaConfig, read, decoder_names("model", "embed_tokens", "norm"))

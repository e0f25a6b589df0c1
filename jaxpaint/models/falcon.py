"""Falcon of 7, 11, 40 and 180 billion parameters: attention and feed-forward side by side, few keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import (
    ConfigError,
    decoder_fields,
    grouped_heads,
    names_of,
    number,
    refuse_unhandled,
    switch,
    whole_heads,
)
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class FalconConfig(Sizes):
    """Falcon, of the first architecture (7B) and the new one, which alone has `num_ln_in_parallel_attn`."""

    num_key_value_heads: int
    max_position_embeddings: int
    layer_norm_epsilon: float
    rope_theta: float
    rope_scaling: Scaling | None = None
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None
    parallel_attn: bool = True
    bias: bool = False
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu"
    has_lm_head: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def traits(self) -> Traits:
        """NeoX's, with all queries of a key side by side with it; one norm for both halves, or one for each."""
        before, before_mlp = "input_layernorm", "input_layernorm"
        if self.num_ln_in_parallel_attn == 2:
            before, before_mlp = "ln_attn", "ln_mlp"
        elif not self.parallel_attn:
            before_mlp = "post_attention_layernorm"
        return Traits(
            norm="layer",
            epsilon=self.layer_norm_epsilon,
            windows=(None,) * self.num_hidden_layers,
            attention="self_attention",
            projections=("query_key_value", "dense"),
            query_key_value="joined by head",
            mlp=("dense_h_to_4h", "dense_4h_to_h"),
            gated=False,
            norms=(before, None, before_mlp, None),
            residuals="side by side" if self.parallel_attn else "in series",
            input_bias=self.bias,
            output_bias=self.bias,
            mlp_bias=self.bias,
            rotary_dim=self.head_dim,
        )


# Its names of what other families' config.json files have alike. ALiBi, as in falcon-rw, is refused by name.
OWN_NAMES = {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size", "hidden_act": "activation"}


def read(raw: Mapping[str, Any]) -> FalconConfig:
    """Reads the `config.json` of a Falcon. Raises ConfigError."""
    own = {"rope_parameters", "original_max_position_embeddings", "multi_query", *OWN_NAMES.values()}
    refuse_unhandled(raw, names_of(FalconConfig) - OWN_NAMES.keys() | own)
    values = {**raw, **{name: raw.get(own) for name, own in OWN_NAMES.items()}}
    if values["intermediate_size"] is None and raw.get("hidden_size") is not None:
        values["intermediate_size"] = 4 * number(raw, "hidden_size")
    fields = decoder_fields(values, values, 2048, "gelu")
    whole_heads(fields)
    new, parallel = switch(raw, "new_decoder_architecture"), switch(raw, "parallel_attn", default=True)
    norms = number(raw, "num_ln_in_parallel_attn", 2 if new else 1)
    if norms > 1 + new:
        raise ConfigError(f"num_ln_in_parallel_attn={shown(norms)} is not handled, nor known to transformers' Falcon")
    if new and not parallel:
        raise ConfigError(
            "parallel_attn=false is not handled with new_decoder_architecture, which transformers has not"
        )
    heads = number(raw, "num_attention_heads")
    whole = not new and not switch(raw, "multi_query", default=True)
    kept = number(raw, "num_kv_heads", heads) if new or whole else 1
    if heads % kept or (whole and kept != heads):
        raise ConfigError(f"num_kv_heads={kept} does not go with the {heads} of num_attention_heads")
    return FalconConfig(
        **{**fields, "tie_word_embeddings": switch(raw, "tie_word_embeddings", default=True)},
        num_key_value_heads=grouped_heads({**fields, "num_key_value_heads": kept})["num_key_value_heads"],
        layer_norm_epsilon=number(raw, "layer_norm_epsilon", 1e-5, float),
        new_decoder_architecture=new,
        num_ln_in_parallel_attn=norms if new else None,
        parallel_attn=parallel,
        bias=switch(raw, "bias"),
    )


NAMES = decoder_names("transformer", "word_embeddings", "ln_f", layers="h")
FAMILY = Family(("falcon",), FalconConfig, read, NAMES)

"""Qwen3-MoE (Qwen3-30B-A3B and kin): norms of each head's query and key, a mixture of experts as the feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Experts, Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.routing import HANDLED, require_sparse, routing
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Qwen3MoeConfig(Sizes):
    """Qwen3-MoE: no layer has the `intermediate_size`; `sliding_window` is in tokens."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False
    attention_bias: bool = False
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Llama's, with norms of queries and keys, and experts."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=(self.sliding_window,) * self.num_hidden_layers,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            query_key_norm="head",
            rotary_dim=self.head_dim,
            experts=Experts(
                self.num_experts,
                self.num_experts_per_tok,
                self.moe_intermediate_size,
                normalised=self.norm_topk_prob,
            ),
        )


def read(raw: Mapping[str, Any]) -> Qwen3MoeConfig:
    """Reads the `config.json` of a Qwen3-MoE. Raises ConfigError."""
    others = {"num_local_experts", "use_sliding_window"}
    fields = decoder_fields(raw, names_of(Qwen3MoeConfig) | HANDLED | others, 32768)
    require_sparse(raw)
    count, chosen = routing(raw, count=128, chosen=8)
    return Qwen3MoeConfig(
        **fields,
        **grouped_heads({"num_key_value_heads": 4, **raw}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6, float),
        num_experts=count,
        num_experts_per_tok=chosen,
        moe_intermediate_size=number(raw, "moe_intermediate_size", 768),
        norm_topk_prob=switch(raw, "norm_topk_prob"),
        attention_bias=switch(raw, "attention_bias"),
        sliding_window=number(raw, "sliding_window", 4096) if switch(raw, "use_sliding_window") else None,
    )


FAMILY = Family(("qwen3_moe",), Qwen3MoeConfig, read, decoder_names("model", "embed_tokens", "norm"))

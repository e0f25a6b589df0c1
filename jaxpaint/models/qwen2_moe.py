"""Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B-A14B): Qwen2 with a mixture of experts, one of them shared, as its feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import checked, shown
from jaxpaint.models.family import Experts, Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import WINDOWS, ConfigError, decoder_fields, grouped_heads, names_of, number, switch
from jaxpaint.models.routing import HANDLED, require_sparse, routing
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Qwen2MoeConfig(Sizes):
    """Qwen2-MoE: `layer_types` name each layer's kind of attention; no layer has the `intermediate_size`."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    layer_types: tuple[str, ...]
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    norm_topk_prob: bool = False
    qkv_bias: bool = True
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Qwen2's, with experts."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types),
            input_bias=self.qkv_bias,
            rotary_dim=self.head_dim,
            experts=Experts(
                self.num_experts,
                self.num_experts_per_tok,
                self.moe_intermediate_size,
                normalised=self.norm_topk_prob,
                shared_width=self.shared_expert_intermediate_size,
            ),
        )


def read(raw: Mapping[str, Any]) -> Qwen2MoeConfig:
    """Reads the `config.json` of a Qwen2-MoE. Raises ConfigError."""
    fields = decoder_fields(raw, names_of(Qwen2MoeConfig) | WINDOWS | HANDLED, 32768)
    require_sparse(raw)
    count, chosen = routing(raw, count=60, chosen=4)
    window = number(raw, "sliding_window", 4096) if switch(raw, "use_sliding_window") else None
    return Qwen2MoeConfig(
        **fields,
        **grouped_heads({"num_key_value_heads": 16, **raw}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6, float),
        layer_types=_layer_types(raw, fields["num_hidden_layers"], window),
        num_experts=count,
        num_experts_per_tok=chosen,
        moe_intermediate_size=number(raw, "moe_intermediate_size", 1408),
        shared_expert_intermediate_size=number(raw, "shared_expert_intermediate_size", 5632),
        norm_topk_prob=switch(raw, "norm_topk_prob"),
        qkv_bias=switch(raw, "qkv_bias", default=True),
        sliding_window=window,
    )


def _layer_types(raw: Mapping[str, Any], layers: int, window: int | None) -> tuple[str, ...]:
    """Where config.json is silent, every other of the first `max_window_layers` has the window."""
    named = checked(raw.get("layer_types"), list[str] | None, "layer_types in config.json")  # type: ignore[arg-type]
    of_window = range(0, {"max_window_layers": 28, **raw}["max_window_layers"] if window else 0, 2)
    kinds = tuple(named or ("sliding_attention" if layer in of_window else "full_attention" for layer in range(layers)))
    if set(kinds) - {"full_attention", *(["sliding_attention"] if window else [])} or len(kinds) != layers:
        raise ConfigError(f"layer_types={shown(list(kinds))} is not handled for {layers} layers of window {window}")
    return kinds


FAMILY = Family(("qwen2_moe",), Qwen2MoeConfig, read, decoder_names("model", "embed_tokens", "norm"))

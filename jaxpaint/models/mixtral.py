"""Mixtral: Mistral with a mixture of experts as its feed-forward. Parity with transformers is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxpaint.models.family import Experts, Family, Sizes, Traits, Weight, decoder_names
from jaxpaint.models.fields import decoder_fields, grouped_heads, names_of, number
from jaxpaint.models.routing import routing
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class MixtralConfig(Sizes):
    """Mixtral: `intermediate_size` is that of an expert, `sliding_window` is in tokens."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    num_local_experts: int
    num_experts_per_tok: int
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Mistral's, with experts whose weights add up to 1."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=(self.sliding_window,) * self.num_hidden_layers,
            rotary_dim=self.head_dim,
            experts=Experts(self.num_local_experts, self.num_experts_per_tok, self.intermediate_size, normalised=True),
        )


def read(raw: Mapping[str, Any]) -> MixtralConfig:
    """Reads the `config.json` of a Mixtral. Raises ConfigError."""
    count, chosen = routing(raw, count=8, chosen=2)
    raw = {**raw, "rope_theta": raw.get("rope_theta") or 1e6}
    fields = decoder_fields(raw, names_of(MixtralConfig), 131072)
    return MixtralConfig(
        **fields,
        **grouped_heads({"num_key_value_heads": 8, **raw}),
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-5, float),
        num_local_experts=count,
        num_experts_per_tok=chosen,
        sliding_window=None if raw.get("sliding_window") is None else number(raw, "sliding_window"),
    )


BASE = decoder_names("model", "embed_tokens", "norm")
# What its files call what transformers has under other families' names (transformers' `conversion_mapping`).
RENAMED = {"mlp": "block_sparse_moe", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def weight(path: str) -> Weight:
    """The entry of our path: that of `blocks/mlp/experts/gate_proj/kernel` ends `.experts.{expert}.w1.weight`."""
    entry = BASE.weight(path)
    return replace(entry, name=".".join(RENAMED.get(part, part) for part in entry.name.split(".")))


FAMILY = Family(("mixtral",), MixtralConfig, read, replace(BASE, weight=weight))

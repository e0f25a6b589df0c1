"""Phi-3, Phi-3.5 and Phi-4: Llama with query, key and value in one product, and gate and up in one."""

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
    rope_and_share,
    rope_type,
    turning,
)
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Phi3Config(Sizes):
    """Phi-3 and kin. The first `rotary_dim` numbers of each head turn; `sliding_window` is in tokens."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rotary_dim: int
    rope_theta: float
    rope_scaling: Scaling | None = None
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """All queries come first in the joined product, then all keys and all values; gates before what they gate."""
        return Traits(
            norm="rms",
            epsilon=self.rms_norm_eps,
            windows=(self.sliding_window,) * self.num_hidden_layers,
            projections=("qkv_proj", "o_proj"),
            query_key_value="joined in blocks",
            mlp=("gate_up_proj", "down_proj"),
            rotary_dim=self.rotary_dim,
        )


LENGTH = 4096  # of the context and of the original one, where a config.json is silent
TYPES = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}  # its first names of it


def read(raw: Mapping[str, Any]) -> Phi3Config:
    """Reads the `config.json` of a Phi-3. Raises ConfigError."""
    parameters, share = rope_and_share(raw)
    kind = rope_type(parameters)
    if not isinstance(kind, str) or kind not in TYPES:
        raise ConfigError(f"rope scaling {shown(kind)} is not handled for phi3; known types: {', '.join(TYPES)}")
    original = number(raw, "original_max_position_embeddings", LENGTH)  # whatever the parameters themselves say
    parameters |= {"rope_type": TYPES[kind], "original_max_position_embeddings": original}
    handled = names_of(Phi3Config) - {"rotary_dim"} | {"partial_rotary_factor"}
    fields = decoder_fields(raw, handled, LENGTH, parameters=parameters)
    heads = grouped_heads(raw)
    return Phi3Config(
        **fields,
        **heads,
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-5, float),
        rotary_dim=turning(heads["head_dim"], share, 1.0),
        sliding_window=None if raw.get("sliding_window") is None else number(raw, "sliding_window"),
    )


FAMILY = Family(("phi3",), Phi3Config, read, decoder_names("model", "embed_tokens", "norm"))

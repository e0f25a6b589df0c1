"""StableLM: Llama with layer norms, biases on query, key and value, and a quarter of each head that turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Sizes, Traits, decoder_names
from jaxpaint.models.fields import (
    decoder_fields,
    grouped_heads,
    names_of,
    number,
    rope_and_share,
    switch,
    turning,
    whole_heads,
)
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class StablelmConfig(Sizes):
    """StableLM 3B, StableLM 2 1.6B and kin. The first `rotary_dim` numbers of each head turn with the position."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layer_norm_eps: float
    rotary_dim: int
    rope_theta: float
    rope_scaling: Scaling | None = None
    tie_word_embeddings: bool = False
    use_qkv_bias: bool = False
    hidden_act: str = "silu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Llama's, with layer norms."""
        return Traits(
            norm="layer",
            epsilon=self.layer_norm_eps,
            windows=(None,) * self.num_hidden_layers,
            input_bias=self.use_qkv_bias,
            rotary_dim=self.rotary_dim,
        )


def read(raw: Mapping[str, Any]) -> StablelmConfig:
    """Reads the `config.json` of a StableLM. Raises ConfigError, as for the 12B's parallel residual."""
    parameters, share = rope_and_share(raw)
    handled = names_of(StablelmConfig) - {"rotary_dim", "head_dim"} | {"partial_rotary_factor"}
    fields = decoder_fields(raw, handled, 4096, parameters=parameters)
    heads = grouped_heads({"num_key_value_heads": 32, **raw, "head_dim": whole_heads(fields)})
    return StablelmConfig(
        **fields,
        **heads,
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-5, float),
        rotary_dim=turning(heads["head_dim"], share, 0.25),
        use_qkv_bias=switch(raw, "use_qkv_bias"),
    )


FAMILY = Family(("stablelm",), StablelmConfig, read, decoder_names("model", "embed_tokens", "norm"))

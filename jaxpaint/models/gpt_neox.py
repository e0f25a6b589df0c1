"""GPT-NeoX (Pythia and kin). Parity with transformers' `GPTNeoXForCausalLM` is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.family import Family, Traits, WholeHeads, decoder_names
from jaxpaint.models.fields import (
    decoder_fields,
    names_of,
    number,
    rope_parameters,
    switch,
    turning,
    whole_heads,
)
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class NeoxConfig(WholeHeads):
    """GPT-NeoX: Pythia and kin. The first `rotary_dim` numbers of each head turn with the position."""

    max_position_embeddings: int
    layer_norm_eps: float
    rotary_dim: int
    rope_theta: float
    rope_scaling: Scaling | None = None
    use_parallel_residual: bool = True
    tie_word_embeddings: bool = False
    attention_bias: bool = True
    hidden_act: str = "gelu"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Both halves read the same input; query, key and value of a head side by side in one product."""
        return Traits(
            norm="layer",
            epsilon=self.layer_norm_eps,
            windows=(None,) * self.num_hidden_layers,
            attention="attention",
            projections=("query_key_value", "dense"),
            query_key_value="joined by head",
            mlp=("dense_h_to_4h", "dense_4h_to_h"),
            gated=False,
            residuals="side by side" if self.use_parallel_residual else "in series",
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=True,
            rotary_dim=self.rotary_dim,
        )


LENGTH, ROTARY = 2048, 0.25  # where a config.json is silent, as transformers' GPTNeoXConfig


def read(raw: Mapping[str, Any]) -> NeoxConfig:
    """Reads the `config.json` of a GPT-NeoX. Raises ConfigError."""
    parameters = rope_parameters(raw)
    rotary = {"rotary_pct": parameters.pop("partial_rotary_factor", None) or raw.get("rotary_pct")}
    handled = names_of(NeoxConfig) - {"rotary_dim", "rope_theta"} | {"rotary_pct", "rotary_emb_base"}
    # Some versions of transformers wrote these a second time under other families' names.
    again = {"rope_theta": raw.get("rotary_emb_base"), "partial_rotary_factor": rotary["rotary_pct"]}
    handled |= {name for name, value in again.items() if raw.get(name) == value}
    fields = decoder_fields(raw, handled, LENGTH, "gelu", parameters, theta="rotary_emb_base")
    return NeoxConfig(
        **fields,
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-5, float),
        rotary_dim=turning(whole_heads(fields), rotary["rotary_pct"], ROTARY, "rotary_pct"),
        use_parallel_residual=switch(raw, "use_parallel_residual", default=True),
        attention_bias=switch(raw, "attention_bias", default=True),
    )


# Older checkpoints hold each layer's causal mask and the value that it masks with.
MASKS = (".attention.bias", ".attention.masked_bias")
NAMES = decoder_names("gpt_neox", "embed_in", "final_layer_norm", "embed_out", buffers=MASKS)
FAMILY = Family(("gpt_neox",), NeoxConfig, read, NAMES)

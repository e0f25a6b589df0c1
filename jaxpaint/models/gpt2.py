"""GPT-2 and its kin (DistilGPT-2, DialoGPT). Parity with transformers' `GPT2LMHeadModel` is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Family, Names, Traits, Weight, WholeHeads
from jaxpaint.models.fields import (
    ConfigError,
    activation,
    names_of,
    number,
    refuse_unhandled,
    sizes,
    switch,
    whole_heads,
)


@dataclass(frozen=True)
class Gpt2Config(WholeHeads):
    """GPT-2: a vector for each position is learned, and texts are no longer than there are such vectors."""

    max_position_embeddings: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu_new"
    has_lm_head: bool = True

    @property
    def traits(self) -> Traits:
        """Learned positions, biases everywhere, query, key and value in one product."""
        return Traits(
            norm="layer",
            epsilon=self.layer_norm_epsilon,
            windows=(None,) * self.num_hidden_layers,
            attention="attn",
            projections=("c_attn", "c_proj"),
            query_key_value="joined in blocks",
            mlp=("c_fc", "c_proj"),
            gated=False,
            norms=("ln_1", None, "ln_2", None),
            input_bias=True,
            output_bias=True,
            mlp_bias=True,
        )


# Its names of what other families' config.json files have alike (transformers' `GPT2Config.attribute_map`).
OWN_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
}


def read(raw: Mapping[str, Any]) -> Gpt2Config:
    """Reads the `config.json` of a GPT-2. Raises ConfigError."""
    both = {name: own for name, own in OWN_NAMES.items() if raw.get(own) is not None and raw.get(name) is not None}
    for name, own in both.items():
        if raw[name] != raw[own]:
            raise ConfigError(f"{own}={shown(raw[own])} and {name}={shown(raw[name])} are names of one number")
    values = {**raw, **{name: raw[own] for name, own in OWN_NAMES.items() if raw.get(own) is not None}}
    inner = values.pop("intermediate_size", None) or 4 * number(values, "hidden_size")
    numbers = sizes({**values, "intermediate_size": inner})
    handled = {*OWN_NAMES.values(), "scale_attn_weights", "reorder_and_upcast_attn"}
    # The last says in which order and precision scores are multiplied; here they are in float32.
    refuse_unhandled(raw, handled | names_of(Gpt2Config) - OWN_NAMES.keys())
    if not switch(raw, "scale_attn_weights", default=True):
        raise ConfigError("scale_attn_weights=false is not handled: scores are divided by the root of a head's size")
    whole_heads(numbers)
    return Gpt2Config(
        model_type="gpt2",
        **numbers,
        max_position_embeddings=number(values, "max_position_embeddings", 1024),
        layer_norm_epsilon=number(raw, "layer_norm_epsilon", 1e-5, float),
        tie_word_embeddings=switch(raw, "tie_word_embeddings", default=True),
        hidden_act=activation(values, "gelu_new"),
    )


OUTSIDE = {"embed": "wte", "embed/position": "wpe", "norm": "ln_f"}


def weight(path: str) -> Weight:
    """The entry of our path: `blocks/attn/c_attn/kernel` is `transformer.h.{layer}.attn.c_attn.weight`, [in, out]."""
    module, leaf = path.rsplit("/", 1)
    if module == "lm_head":
        return Weight(path, "lm_head.weight", transposed=True)
    inside = f"h.{{layer}}.{module.removeprefix('blocks/').replace('/', '.')}"
    name = f"transformer.{OUTSIDE.get(module, inside)}.{'bias' if leaf == 'bias' else 'weight'}"
    return Weight(path, name, transposed=False)


NAMES = Names(
    weight,
    base="transformer",
    modules=("wte", "wpe", "h", "ln_f"),
    embedding="transformer.wte.weight",
    head="lm_head.weight",
    kept="lm_head.",
    buffers=(".attn.bias", ".attn.masked_bias"),  # each layer's causal mask, and the value that it masks with
)
FAMILY = Family(("gpt2",), Gpt2Config, read, NAMES, num_layers="n_layer")

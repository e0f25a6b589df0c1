"""ModernBERT: an encoder of pre-norm layers, gated, with rotary positions of two bases and windows in most layers.

Parity with transformers' `ModernBertModel` and `ModernBertForMaskedLM` is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxpaint.base.documents import checked, shown
from jaxpaint.models.encoder_family import (
    EncoderConfig,
    EncoderTraits,
    absolute_positions,
    named,
    probability,
    require_encoder,
    with_heads,
)
from jaxpaint.models.family import ROTARY_BUFFERS, Family, Names, Rotary, Traits, Weight
from jaxpaint.models.fields import ConfigError, activation, number, rope_parameters, rope_type, sizes, switch

# Of each kind of layer, the name that transformers 4 has for its rotary base, and what that is in silence.
KINDS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}
# Our names of dropout's rates, those that other encoders have, by config.json's.
RATES = {"embedding_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
HANDLED = {
    *("position_embedding_type", "global_attn_every_n_layers", "decoder_bias", "rope_parameters"),
    *("layer_norm_eps", "initializer_cutoff_factor"),  # not read: norm_eps is, and weights are there
    *("sparse_prediction", "sparse_pred_ignore_index"),  # of the loss
    *("reference_compile", "repad_logits_with_grad"),  # of transformers 4: how it computes the same
}


@dataclass(frozen=True)
class ModernBertConfig(EncoderConfig):
    """ModernBERT: layers of `sliding_attention` see half of `local_attention` tokens to each side.

    `attention_norms` says of each layer whether it norms what its attention reads, which the first one does not.
    """

    max_position_embeddings: int
    norm_eps: float
    local_attention: int
    global_rope_theta: float
    local_rope_theta: float
    layer_types: tuple[str, ...]
    attention_norms: tuple[bool, ...]
    hidden_activation: str = "gelu"
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    classifier_bias: bool = False
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    mlp_dropout: float = 0.0
    classifier_dropout: float = 0.0
    has_classifier_dense: bool = False
    has_masked_lm_head: bool = True

    @property
    def hidden_act(self) -> str:
        return self.hidden_activation

    @property
    def encoder_traits(self) -> EncoderTraits:
        """Its masked-LM head and its classifiers have the same head."""
        return EncoderTraits(self.norm_eps, head_activation=self.classifier_activation)

    @property
    def traits(self) -> Traits:
        """A window's tokens are those at a distance below it, so one more than half of `local_attention`."""
        local, whole = Rotary(self.local_rope_theta), Rotary(self.global_rope_theta)
        has_window = [kind == "sliding_attention" for kind in self.layer_types]
        return Traits(
            "layer",
            self.norm_eps,
            tuple(self.local_attention // 2 + 1 if windowed else None for windowed in has_window),
            attention="attention",
            projections=("qkv_proj", "output"),
            query_key_value="joined in blocks",
            mlp=("gate_up_proj", "output"),
            norms=("attention_norm", None, "mlp_norm", None),
            norm_bias=self.norm_bias,
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            rotary_dim=self.head_dim,
            rotary=tuple(local if windowed else whole for windowed in has_window),
        )


def read(raw: Mapping[str, Any]) -> ModernBertConfig:
    """Reads the `config.json` of a ModernBERT. Raises ConfigError."""
    numbers = sizes(raw)
    require_encoder(raw, ModernBertConfig, numbers, HANDLED)
    absolute_positions(raw)
    if not switch(raw, "decoder_bias", default=True):
        raise ConfigError(
            "decoder_bias=false is not handled: a masked-LM head is told from a classifier's by its bias (decoder.bias)"
        )
    pooling = raw.get("classifier_pooling") or "cls"
    if pooling not in ("cls", "mean"):
        raise ConfigError(f"classifier_pooling={shown(pooling)} is not handled; known: 'cls', 'mean'")
    bases = _bases(raw)
    config = ModernBertConfig(
        model_type="modernbert",
        **numbers,
        max_position_embeddings=number(raw, "max_position_embeddings", 8192),
        norm_eps=number(raw, "norm_eps", 1e-5, float),
        local_attention=number(raw, "local_attention", 128),
        global_rope_theta=bases["full_attention"],
        local_rope_theta=bases["sliding_attention"],
        layer_types=_kinds(raw, numbers["num_hidden_layers"]),
        attention_norms=tuple(layer > 0 for layer in range(numbers["num_hidden_layers"])),
        hidden_activation=activation(raw, "gelu", "hidden_activation"),
        classifier_activation=activation(raw, "gelu", "classifier_activation"),
        classifier_pooling=pooling,
        **{name: switch(raw, name) for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")},
        **{ours: probability(raw, theirs, 0.0) for theirs, ours in RATES.items()},
        **{name: probability(raw, name, 0.0) for name in ("mlp_dropout", "classifier_dropout")},
    )
    if config.head_dim % 2:
        raise ConfigError(
            f"hidden_size={config.hidden_size} and num_attention_heads={config.num_attention_heads} make heads of "
            f"{config.head_dim} numbers, which is odd: rotary positions turn halves of a head against each other"
        )
    return config


def _kinds(raw: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """`layer_types`; in their silence each `global_attn_every_n_layers`th layer attends in full, the first one, too."""
    named = checked(raw.get("layer_types"), list[str] | None, "layer_types in config.json")  # type: ignore[arg-type]
    every = number(raw, "global_attn_every_n_layers", 3)
    kinds = tuple(named or ([*KINDS][layer % every > 0] for layer in range(layers)))
    if set(kinds) - KINDS.keys() or len(kinds) != layers:
        raise ConfigError(f"layer_types={shown(list(kinds))} is not handled for {layers} layers")
    return kinds


def _bases(raw: Mapping[str, Any]) -> dict[str, float]:
    """The rotary base of each kind of layer, as transformers 5 (`rope_parameters`) or 4 wrote it.

    Raises ConfigError for a scaling, and for a base that versions of transformers read differently.
    """
    of_kinds, found = rope_parameters(raw), dict[str, float]()
    for kind, (older, silent) in KINDS.items():
        own = of_kinds.get(kind) or {}
        if of_kinds.keys() - KINDS.keys() or not isinstance(own, Mapping) or rope_type(own) != "default":
            raise ConfigError(
                f"rope_parameters={shown(of_kinds)} is not handled for a modernbert: give an object with a rope_theta "
                f"for each of {' and '.join(KINDS)}"
            )
        if strange := {name: each for name, each in own.items() if name not in ("rope_theta", "rope_type", "type")}:
            raise ConfigError(f"rope_parameters of {kind} in config.json have {shown(strange)}, which is not handled")
        if older in raw and raw[older] is None and "rope_theta" not in own:
            raise ConfigError(f"{older}=null is not handled: give the base, which versions of transformers read apart")
        base = own.get("rope_theta", raw.get(older))
        found[kind] = number({older: base}, older, silent, float)
    return found


LAYER = "model.layers.{layer}"
MODULES = {
    "embed/word": "model.embeddings.tok_embeddings",
    "embed/norm": "model.embeddings.norm",
    "blocks/attention_norm": f"{LAYER}.attn_norm",
    "blocks/attention/qkv_proj": f"{LAYER}.attn.Wqkv",
    "blocks/attention/output": f"{LAYER}.attn.Wo",
    "blocks/mlp_norm": f"{LAYER}.mlp_norm",
    "blocks/mlp/gate_up_proj": f"{LAYER}.mlp.Wi",
    "blocks/mlp/output": f"{LAYER}.mlp.Wo",
    "norm": "model.final_norm",
    "classifier_dense/dense": "head.dense",
    "classifier_dense/norm": "head.norm",
    "masked_lm": "decoder",
}


def weight(path: str) -> Weight:
    """The entry of our path; the first layer has no norm before its attention."""
    found = named(MODULES)(path)
    return replace(found, first=1) if path.startswith("blocks/attention_norm/") else found


NAMES = Names(
    weight,
    base="model",
    modules=("embeddings", "layers", "final_norm"),
    embedding="model.embeddings.tok_embeddings.weight",
    head="decoder.weight",
    kept=("head.", "decoder."),
    buffers=ROTARY_BUFFERS,
    adapt=with_heads(MODULES),
)
FAMILY = Family(("modernbert",), ModernBertConfig, read, NAMES)

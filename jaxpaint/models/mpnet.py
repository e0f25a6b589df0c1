"""MPNet: RoBERTa's encoder without token types, its layers' scores with a bias by distance that all of them share.

Parity with transformers' `MPNetModel` and `MPNetForMaskedLM` is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.encoder_family import (
    EncoderConfig,
    EncoderTraits,
    named,
    positions_after,
    probability,
    require_encoder,
    with_heads,
)
from jaxpaint.models.family import Family, Names
from jaxpaint.models.fields import ConfigError, activation, number, sizes

# Neither is read from config.json: transformers computes with these.
PADDING_TOKEN, BUCKETS = 1, 32


@dataclass(frozen=True)
class MpnetConfig(EncoderConfig):
    """`max_position_embeddings` is of tokens: the table has two rows more."""

    max_position_embeddings: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    has_pooler: bool = True
    has_classifier_dense: bool = False
    has_masked_lm_head: bool = True

    @property
    def encoder_traits(self) -> EncoderTraits:
        """Its masked-LM head has an exact GELU, whatever the layers have."""
        return EncoderTraits(
            self.layer_norm_eps, padding_token=PADDING_TOKEN, drops_pooler_input=True, relative_buckets=BUCKETS
        )


def read(raw: Mapping[str, Any]) -> MpnetConfig:
    """Reads the `config.json` of an MPNet. Raises ConfigError."""
    numbers = sizes(raw)
    require_encoder(raw, MpnetConfig, numbers, {"relative_attention_num_buckets"})
    if raw.get("relative_attention_num_buckets") not in (None, BUCKETS):
        found = shown(raw["relative_attention_num_buckets"])
        raise ConfigError(
            f"relative_attention_num_buckets={found} is not handled: transformers computes with {BUCKETS}"
        )
    return MpnetConfig(
        model_type="mpnet",
        **numbers,
        max_position_embeddings=positions_after(raw, PADDING_TOKEN, number(raw, "max_position_embeddings", 512)),
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-12, float),
        hidden_act=activation(raw, "gelu"),
        hidden_dropout_prob=probability(raw, "hidden_dropout_prob"),
        attention_probs_dropout_prob=probability(raw, "attention_probs_dropout_prob"),
    )


LAYER = "mpnet.encoder.layer.{layer}"
MODULES = {
    "embed/word": "mpnet.embeddings.word_embeddings",
    "embed/position": "mpnet.embeddings.position_embeddings",
    "embed/norm": "mpnet.embeddings.LayerNorm",
    "relative": "mpnet.encoder.relative_attention_bias",
    "blocks/attention/query": f"{LAYER}.attention.attn.q",
    "blocks/attention/key": f"{LAYER}.attention.attn.k",
    "blocks/attention/value": f"{LAYER}.attention.attn.v",
    "blocks/attention/output": f"{LAYER}.attention.attn.o",
    "blocks/attention_norm": f"{LAYER}.attention.LayerNorm",
    "blocks/mlp/intermediate": f"{LAYER}.intermediate.dense",
    "blocks/mlp/output": f"{LAYER}.output.dense",
    "blocks/mlp_norm": f"{LAYER}.output.LayerNorm",
    "pooler": "mpnet.pooler.dense",
    "classifier_dense": "classifier.dense",
    "masked_lm/transform": "lm_head.dense",
    "masked_lm/norm": "lm_head.layer_norm",
    "masked_lm": "lm_head",
}
NAMES = Names(
    named(MODULES),
    base="mpnet",
    modules=("embeddings", "encoder", "pooler"),
    embedding="mpnet.embeddings.word_embeddings.weight",
    head="lm_head.decoder.weight",
    kept=("lm_head.", "classifier.dense."),
    twice=(("lm_head.decoder.bias", "lm_head.bias"),),
    buffers=("embeddings.position_ids",),
    adapt=with_heads(MODULES),
)
FAMILY = Family(("mpnet",), MpnetConfig, read, NAMES)

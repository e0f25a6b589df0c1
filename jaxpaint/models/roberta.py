"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions counted from after the padding token's id on.

Parity with transformers' `RobertaModel` and `RobertaForMaskedLM` is tested. A fine-tuned classifier's first layer
(`classifier.dense`) is what a pooler is, and is kept beside one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.encoder_family import (
    EncoderConfig,
    EncoderTraits,
    absolute_positions,
    named,
    positions_after,
    probability,
    require_encoder,
    with_heads,
)
from jaxpaint.models.family import Family, Names
from jaxpaint.models.fields import ConfigError, activation, number, sizes


@dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """`max_position_embeddings` is of tokens: the table has `pad_token_id + 1` rows more."""

    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    pad_token_id: int = 1
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
            self.layer_norm_eps,
            token_types=self.type_vocab_size,
            padding_token=self.pad_token_id,
            drops_pooler_input=True,
        )


def read(raw: Mapping[str, Any]) -> RobertaConfig:
    """Reads the `config.json` of a RoBERTa. Raises ConfigError."""
    numbers = sizes(raw)
    require_encoder(raw, RobertaConfig, numbers, {"position_embedding_type"})
    absolute_positions(raw)
    padding = 1 if raw.get("pad_token_id") is None else raw["pad_token_id"]
    if type(padding) is not int or not 0 <= padding < numbers["vocab_size"]:
        raise ConfigError(f"pad_token_id={shown(padding)} in config.json is no token of {numbers['vocab_size']}")
    return RobertaConfig(
        model_type=raw["model_type"],
        **numbers,
        max_position_embeddings=positions_after(raw, padding, number(raw, "max_position_embeddings", 512)),
        type_vocab_size=number(raw, "type_vocab_size", 2),
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-12, float),
        pad_token_id=padding,
        hidden_act=activation(raw, "gelu"),
        hidden_dropout_prob=probability(raw, "hidden_dropout_prob"),
        attention_probs_dropout_prob=probability(raw, "attention_probs_dropout_prob"),
        classifier_dropout=probability(raw, "classifier_dropout", None),
    )


LAYER = "roberta.encoder.layer.{layer}"
MODULES = {
    "embed/word": "roberta.embeddings.word_embeddings",
    "embed/position": "roberta.embeddings.position_embeddings",
    "embed/token_type": "roberta.embeddings.token_type_embeddings",
    "embed/norm": "roberta.embeddings.LayerNorm",
    "blocks/attention/query": f"{LAYER}.attention.self.query",
    "blocks/attention/key": f"{LAYER}.attention.self.key",
    "blocks/attention/value": f"{LAYER}.attention.self.value",
    "blocks/attention/output": f"{LAYER}.attention.output.dense",
    "blocks/attention_norm": f"{LAYER}.attention.output.LayerNorm",
    "blocks/mlp/intermediate": f"{LAYER}.intermediate.dense",
    "blocks/mlp/output": f"{LAYER}.output.dense",
    "blocks/mlp_norm": f"{LAYER}.output.LayerNorm",
    "pooler": "roberta.pooler.dense",
    "classifier_dense": "classifier.dense",
    "masked_lm/transform": "lm_head.dense",
    "masked_lm/norm": "lm_head.layer_norm",
    "masked_lm": "lm_head",
}
NAMES = Names(
    named(MODULES),
    base="roberta",
    modules=("embeddings", "encoder", "pooler"),
    embedding="roberta.embeddings.word_embeddings.weight",
    head="lm_head.decoder.weight",
    kept=("lm_head.", "classifier.dense."),
    twice=(("lm_head.decoder.bias", "lm_head.bias"),),
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    adapt=with_heads(MODULES),
)
FAMILY = Family(("roberta", "xlm-roberta", "camembert"), RobertaConfig, read, NAMES)

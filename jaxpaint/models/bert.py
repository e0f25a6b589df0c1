"""BERT (base, large, MiniLM and kin), in both generations of names: `gamma` and `beta` are `weight` and `bias` since.

Parity with transformers' `BertModel` and `BertForMaskedLM` is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.models.encoder_family import (
    EncoderConfig,
    EncoderTraits,
    absolute_positions,
    named,
    probability,
    require_encoder,
    with_heads,
)
from jaxpaint.models.family import Family, Names
from jaxpaint.models.fields import activation, number, sizes


@dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """BERT: an encoder. Which heads a checkpoint brings is seen in its tensors, not in its config.json."""

    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    has_pooler: bool = True
    has_masked_lm_head: bool = True

    @property
    def encoder_traits(self) -> EncoderTraits:
        """Its masked-LM head has the activation of its layers."""
        return EncoderTraits(self.layer_norm_eps, token_types=self.type_vocab_size, head_activation=self.hidden_act)


def read(raw: Mapping[str, Any]) -> BertConfig:
    """Reads the `config.json` of a BERT. Raises ConfigError."""
    numbers = sizes(raw)
    require_encoder(raw, BertConfig, numbers, {"position_embedding_type"})
    absolute_positions(raw)
    return BertConfig(
        model_type="bert",
        **numbers,
        max_position_embeddings=number(raw, "max_position_embeddings", 512),
        type_vocab_size=number(raw, "type_vocab_size", 2),
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-12, float),
        hidden_act=activation(raw, "gelu"),
        hidden_dropout_prob=probability(raw, "hidden_dropout_prob"),
        attention_probs_dropout_prob=probability(raw, "attention_probs_dropout_prob"),
        classifier_dropout=probability(raw, "classifier_dropout", None),
    )


EMBEDDING, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
LAYER = "bert.encoder.layer.{layer}"
MODULES = {
    "embed/word": "bert.embeddings.word_embeddings",
    "embed/position": "bert.embeddings.position_embeddings",
    "embed/token_type": "bert.embeddings.token_type_embeddings",
    "embed/norm": "bert.embeddings.LayerNorm",
    "blocks/attention/query": f"{LAYER}.attention.self.query",
    "blocks/attention/key": f"{LAYER}.attention.self.key",
    "blocks/attention/value": f"{LAYER}.attention.self.value",
    "blocks/attention/output": f"{LAYER}.attention.output.dense",
    "blocks/attention_norm": f"{LAYER}.attention.output.LayerNorm",
    "blocks/mlp/intermediate": f"{LAYER}.intermediate.dense",
    "blocks/mlp/output": f"{LAYER}.output.dense",
    "blocks/mlp_norm": f"{LAYER}.output.LayerNorm",
    "pooler": "bert.pooler.dense",
    "masked_lm/transform": "cls.predictions.transform.dense",
    "masked_lm/norm": "cls.predictions.transform.LayerNorm",
    "masked_lm": "cls.predictions",
}


def canonical(name: str) -> str:
    """A checkpoint's name as `BertForMaskedLM` has it today."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


NAMES = Names(
    named(MODULES),
    base="bert",
    modules=("embeddings", "encoder", "pooler"),
    embedding=EMBEDDING,
    head=HEAD,
    kept="cls.predictions.",
    twice=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),  # counted up, and zeros
    canonical=canonical,
    adapt=with_heads(MODULES),
)
FAMILY = Family(("bert",), BertConfig, read, NAMES)

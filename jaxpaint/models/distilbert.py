"""DistilBERT: BERT's layers without token types; a classifier has a first layer of its own in place of a pooler.

Parity with transformers' `DistilBertModel` and `DistilBertForMaskedLM` is tested.
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
    probability,
    require_encoder,
    with_heads,
)
from jaxpaint.models.family import Family, Names
from jaxpaint.models.fields import ConfigError, activation, number, sizes

# Our names of what config.json calls otherwise: those that transformers reads by ours too, and the others.
EITHER = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
SIZES = {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
RATES = {
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}
# Sinusoidal positions are in the checkpoint as learned ones are; the other drops in training for questions.
HANDLED = {*EITHER.values(), *SIZES.values(), *RATES.values(), "sinusoidal_pos_embds", "qa_dropout"}


@dataclass(frozen=True)
class DistilbertConfig(EncoderConfig):
    """By the names that other encoders have; norms are those of the paper's code, whatever config.json says."""

    max_position_embeddings: int
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float = 0.2
    has_classifier_dense: bool = False
    has_masked_lm_head: bool = True

    @property
    def encoder_traits(self) -> EncoderTraits:
        return EncoderTraits(
            epsilon=1e-12,
            head_activation=self.hidden_act,
            pooler_activation="relu",
            drops_attention_output=False,
        )


def read(raw: Mapping[str, Any]) -> DistilbertConfig:
    """Reads the `config.json` of a DistilBERT. Raises ConfigError."""
    ours = {**raw, **{name: raw.get(theirs) for name, theirs in {**SIZES, **RATES}.items()}}
    ours.update({name: raw.get(theirs, raw.get(name)) for name, theirs in EITHER.items()})
    for name, theirs in {**EITHER, **SIZES}.items():
        if raw.get(name) not in (None, ours[name]):
            raise ConfigError(
                f"config.json sets {name}={shown(raw[name])} and {theirs}={shown(raw.get(theirs))}; a DistilBERT is "
                f"read by {theirs}"
            )
    numbers = sizes(ours)
    require_encoder(ours, DistilbertConfig, numbers, HANDLED)
    return DistilbertConfig(
        model_type="distilbert",
        **numbers,
        max_position_embeddings=number(raw, "max_position_embeddings", 512),
        hidden_act=activation(ours, "gelu"),
        hidden_dropout_prob=probability(ours, "hidden_dropout_prob"),
        attention_probs_dropout_prob=probability(ours, "attention_probs_dropout_prob"),
        classifier_dropout=probability(ours, "classifier_dropout", 0.2),
    )


LAYER = "distilbert.transformer.layer.{layer}"
MODULES = {
    "embed/word": "distilbert.embeddings.word_embeddings",
    "embed/position": "distilbert.embeddings.position_embeddings",
    "embed/norm": "distilbert.embeddings.LayerNorm",
    "blocks/attention/query": f"{LAYER}.attention.q_lin",
    "blocks/attention/key": f"{LAYER}.attention.k_lin",
    "blocks/attention/value": f"{LAYER}.attention.v_lin",
    "blocks/attention/output": f"{LAYER}.attention.out_lin",
    "blocks/attention_norm": f"{LAYER}.sa_layer_norm",
    "blocks/mlp/intermediate": f"{LAYER}.ffn.lin1",
    "blocks/mlp/output": f"{LAYER}.ffn.lin2",
    "blocks/mlp_norm": f"{LAYER}.output_layer_norm",
    "classifier_dense": "pre_classifier",
    "masked_lm/transform": "vocab_transform",
    "masked_lm/norm": "vocab_layer_norm",
    "masked_lm": "vocab_projector",
}
NAMES = Names(
    named(MODULES),
    base="distilbert",
    modules=("embeddings", "transformer"),
    embedding="distilbert.embeddings.word_embeddings.weight",
    head="vocab_projector.weight",
    kept=("vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "pre_classifier."),
    buffers=("embeddings.position_ids",),
    adapt=with_heads(MODULES),
)
FAMILY = Family(("distilbert",), DistilbertConfig, read, NAMES, num_layers="n_layers")

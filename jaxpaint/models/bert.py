"""BERT (base, large, MiniLM and kin), in both generations of names: `gamma` and `beta` are `weight` and `bias` since.

Parity with transformers' `BertModel` and `BertForMaskedLM` is tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Capabilities, Family, Names, Weight, WholeHeads
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
class BertConfig(WholeHeads):
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
    def tie_word_embeddings(self) -> bool:
        """True: the masked-LM head multiplies with the word embeddings."""
        return True

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            decoder=False,
            pooler=self.has_pooler,
            masked_lm_head=self.has_masked_lm_head,
            token_types=self.type_vocab_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def read(raw: Mapping[str, Any]) -> BertConfig:
    """Reads the `config.json` of a BERT. Raises ConfigError."""
    numbers = sizes(raw)
    fields = names_of(BertConfig) - {"has_pooler", "has_masked_lm_head"}
    refuse_unhandled(raw, fields | {"position_embedding_type", "tie_word_embeddings"})
    whole_heads(numbers)
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ConfigError(f"position_embedding_type={shown(positions)} is not handled; known: 'absolute'")
    if not switch(raw, "tie_word_embeddings", default=True):
        raise ConfigError("tie_word_embeddings=false is not handled: a BERT's masked-LM head is its word embeddings")
    return BertConfig(
        model_type="bert",
        **numbers,
        max_position_embeddings=number(raw, "max_position_embeddings", 512),
        type_vocab_size=number(raw, "type_vocab_size", 2),
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-12, float),
        hidden_act=activation(raw, "gelu"),
        hidden_dropout_prob=_probability(raw, "hidden_dropout_prob"),
        attention_probs_dropout_prob=_probability(raw, "attention_probs_dropout_prob"),
        classifier_dropout=_probability(raw, "classifier_dropout", None),
    )


def _probability(raw: Mapping[str, Any], name: str, default: float | None = 0.1) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name}={shown(value)} in config.json is not a probability of 0 or more and below 1")
    return float(value)


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


def weight(path: str) -> Weight:
    """The entry of our path: `pooler/kernel` is `bert.pooler.dense.weight`."""
    module, leaf = path.rsplit("/", 1)
    return Weight(path, f"{MODULES[module]}.{'bias' if leaf == 'bias' else 'weight'}", transposed=leaf == "kernel")


def canonical(name: str) -> str:
    """A checkpoint's name as `BertForMaskedLM` has it today."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def adapt(config: BertConfig, names: Collection[str]) -> BertConfig:
    """The configuration with the heads whose tensors are there."""
    return dataclasses.replace(
        config,
        has_pooler=any(name.startswith("bert.pooler.") for name in names),
        has_masked_lm_head=any(name.startswith("cls.predictions.") for name in names),
    )


NAMES = Names(
    weight,
    base="bert",
    modules=("embeddings", "encoder", "pooler"),
    embedding=EMBEDDING,
    head=HEAD,
    kept="cls.predictions.",
    twice=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),  # counted up, and zeros
    canonical=canonical,
    adapt=adapt,
)
FAMILY = Family(("bert",), BertConfig, read, NAMES)

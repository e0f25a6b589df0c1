"""BERT's architecture (base, large, MiniLM and kin), and its reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxpaint.models.fields import ConfigError, activation, number, refuse_unhandled, sizes, switch


@dataclass(frozen=True)
class BertConfig:
    """BERT: an encoder. Which heads a checkpoint brings is seen in its tensors, not in its config.json."""

    model_type: Literal["bert"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
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
    def num_key_value_heads(self) -> int:
        """As many as query heads."""
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def tie_word_embeddings(self) -> bool:
        """True: the masked-LM head multiplies with the word embeddings."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None left out; `config.from_dict` reads them back."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def from_huggingface(raw: Mapping[str, Any]) -> BertConfig:
    """Reads the `config.json` of a BERT. Raises ConfigError."""
    numbers = sizes(raw)
    fields = {field.name for field in dataclasses.fields(BertConfig)} - {"has_pooler", "has_masked_lm_head"}
    # Gradient checkpointing concerns training by others.
    harmless = {"gradient_checkpointing", "type_vocab_size", "position_embedding_type", "tie_word_embeddings"}
    refuse_unhandled(raw, fields | harmless)
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if hidden_size % heads:
        raise ConfigError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={heads}")
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ConfigError(f"position_embedding_type={positions!r} is not handled; known: 'absolute'")
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
        raise ConfigError(f"{name}={value!r} in config.json is not a probability of 0 or more and below 1")
    return float(value)

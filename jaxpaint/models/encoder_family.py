"""What families of encoders declare and share: how they compute, how config.json is read, the names of weights."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxpaint.base.documents import shown
from jaxpaint.models.family import Capabilities, Weight, WholeHeads
from jaxpaint.models.fields import ConfigError, names_of, refuse_unhandled, switch, whole_heads


@dataclass(frozen=True)
class EncoderTraits:
    """How an encoder computes, beside what all do; follows from its config and is never stored."""

    epsilon: float
    token_types: int = 0
    """How many token types have an embedding."""
    padding_token: int | None = None
    """Positions count the tokens that are not this one, from the number after it on; None for all tokens, from 0 on."""
    head_activation: str = "gelu"
    """Within the masked-LM head."""
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    drops_attention_output: bool = True
    """In training; else dropout follows the feed-forward alone."""
    drops_both_outputs: bool = False
    """In training, of a pre-norm layer: what attention and the feed-forward give, at the rate of the embeddings."""
    drops_pooler_input: bool = False
    """In training, at the rate of the classifier."""
    relative_buckets: int = 0
    """How many kinds of distances between tokens have a number of every head, added to its scores; 0 for none."""


class EncoderConfig(WholeHeads, ABC):
    """What the configs of encoders tell alike, whatever fields they have."""

    @property
    @abstractmethod
    def encoder_traits(self) -> EncoderTraits:
        """How its layers compute; follows from its fields."""

    @property
    def tie_word_embeddings(self) -> bool:
        """True: the masked-LM head multiplies with the word embeddings."""
        return True

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            decoder=False,
            pooler=getattr(self, "has_pooler", False) or getattr(self, "has_classifier_dense", False),
            new_pooler=hasattr(self, "has_classifier_dense"),
            masked_lm_head=getattr(self, "has_masked_lm_head", False),
            token_types=self.encoder_traits.token_types,
            flash_attention=not self.encoder_traits.relative_buckets,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


# Fields that are seen in a checkpoint's tensors, each with the beginning of a module's path that it is there for.
HEADS = {"has_pooler": "pooler", "has_classifier_dense": "classifier_dense", "has_masked_lm_head": "masked_lm"}


def require_encoder(raw: Mapping[str, Any], config: type, numbers: Mapping[str, Any], handled: Iterable[str]) -> None:
    """Raises ConfigError unless all of a config.json is a field of `config`, handled or harmless, in an encoder."""
    refuse_unhandled(raw, (names_of(config) - HEADS.keys()) | {"tie_word_embeddings", *handled})
    whole_heads(numbers)
    family = raw["model_type"]
    for name in ("is_decoder", "is_causal"):
        if switch(raw, name):
            raise ConfigError(f"{name}={shown(raw[name])} is not handled: a {family} model is an encoder here")
    if not switch(raw, "tie_word_embeddings", default=True):
        raise ConfigError(
            f"tie_word_embeddings=false is not handled: the masked-LM head of a {family} model is its word embeddings"
        )


def absolute_positions(raw: Mapping[str, Any]) -> None:
    """Raises ConfigError for positions of another kind, in families whose code has read of which they are."""
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ConfigError(f"position_embedding_type={shown(positions)} is not handled; known: 'absolute'")


def probability(raw: Mapping[str, Any], name: str, default: float | None = 0.1) -> Any:
    """A rate of dropout; null is as good as silence."""
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name}={shown(value)} in config.json is not a probability of 0 or more and below 1")
    return float(value)


def positions_after(raw: Mapping[str, Any], padding_token: int, rows: int) -> int:
    """How many tokens a text may have whose positions begin after `padding_token`, in a table of so many `rows`."""
    if rows <= padding_token + 1:
        raise ConfigError(
            f"max_position_embeddings={rows} of a {raw['model_type']} leaves no position after those up to its "
            f"pad_token_id, {padding_token}"
        )
    return rows - padding_token - 1


def named(modules: Mapping[str, str]) -> Callable[[str], Weight]:
    """The entry of our path, by the names of modules: `pooler/kernel` is `bert.pooler.dense.weight`."""

    def weight(path: str) -> Weight:
        module, leaf = path.rsplit("/", 1)
        return Weight(path, f"{modules[module]}.{'bias' if leaf == 'bias' else 'weight'}", transposed=leaf == "kernel")

    return weight


def with_heads(modules: Mapping[str, str]) -> Callable[[Any, Collection[str]], Any]:
    """What gives a configuration the heads whose tensors are among a checkpoint's names."""

    def adapt(config: Any, names: Collection[str]) -> Any:
        beginnings = {
            field: tuple(f"{name}." for path, name in modules.items() if path.split("/")[0] == head)
            for field, head in HEADS.items()
            if field in names_of(type(config))
        }
        return dataclasses.replace(
            config, **{field: any(name.startswith(each) for name in names) for field, each in beginnings.items()}
        )

    return adapt

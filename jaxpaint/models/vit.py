"""ViT: an encoder of images in patches, pre-norm. Parity with transformers' `ViTForImageClassification` is tested.

Positions are those of images of one size: others, for which transformers interpolates them, are refused. Poolers, which
image classifiers do not read, and mask tokens are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.models.encoder_family import EncoderTraits, named, probability
from jaxpaint.models.family import Capabilities, Family, Names, Traits, Weight
from jaxpaint.models.fields import (
    REQUIRED,
    ConfigError,
    activation,
    names_of,
    number,
    refuse_unhandled,
    require_bounds,
    sizes,
    switch,
    whole_heads,
)

HANDLED = {
    *("image_size", "patch_size", "num_channels", "layer_norm_eps", "qkv_bias", "model_type"),
    *("pooler_act", "pooler_output_size"),  # of the pooler, which is left out
    "encoder_stride",  # of the head that makes images, too
}


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer. Sizes in pixels are (height, width); `labels` are its head's classes, () without a head."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_channels: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float = 0.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """However it was made: raises ConfigError for a number that no model has, and patches that do not fit."""
        require_bounds(vars(self))
        for name in ("image_size", "patch_size"):
            for length in getattr(self, name):
                number({name: length}, name)
        if any(whole % part for whole, part in zip(self.image_size, self.patch_size, strict=True)):
            raise ConfigError(
                f"image_size={list(self.image_size)} is not a multiple of patch_size={list(self.patch_size)}: the "
                "pixels beyond the last whole patch would not be seen"
            )

    @property
    def vocab_size(self) -> int:
        """0: there are no tokens."""
        return 0

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def max_position_embeddings(self) -> int:
        """The patches, and before them [CLS]."""
        (height, width), (high, wide) = self.image_size, self.patch_size
        return 1 + (height // high) * (width // wide)

    @property
    def tie_word_embeddings(self) -> bool:
        return False

    @property
    def capabilities(self) -> Capabilities:
        """What classifiers read, the last state of [CLS], is always there."""
        return Capabilities(decoder=False, pooler=True, images=True)

    @property
    def encoder_traits(self) -> EncoderTraits:
        return EncoderTraits(self.layer_norm_eps, drops_both_outputs=True)

    @property
    def traits(self) -> Traits:
        return Traits(
            "layer",
            self.layer_norm_eps,
            (None,) * self.num_hidden_layers,
            attention="attention",
            projections=("query", "key", "value", "output"),
            mlp=("intermediate", "output"),
            gated=False,
            norms=("attention_norm", None, "mlp_norm", None),
            input_bias=self.qkv_bias,
            output_bias=True,
            mlp_bias=True,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def read(raw: Mapping[str, Any]) -> ViTConfig:
    """Reads the `config.json` of a ViT. Raises ConfigError."""
    numbers = sizes(raw, [name for name in REQUIRED if name != "vocab_size"])
    refuse_unhandled(raw, (names_of(ViTConfig) - {"labels", "classifier_dropout"}) | HANDLED)
    whole_heads(numbers)
    return ViTConfig(
        model_type="vit",
        **numbers,
        image_size=_height_and_width(raw, "image_size", 224),
        patch_size=_height_and_width(raw, "patch_size", 16),
        num_channels=number(raw, "num_channels", 3),
        layer_norm_eps=number(raw, "layer_norm_eps", 1e-12, float),
        hidden_act=activation(raw, "gelu"),
        qkv_bias=switch(raw, "qkv_bias", default=True),
        hidden_dropout_prob=probability(raw, "hidden_dropout_prob", 0.0),
        attention_probs_dropout_prob=probability(raw, "attention_probs_dropout_prob", 0.0),
        labels=_labels(raw),
    )


def _height_and_width(raw: Mapping[str, Any], name: str, silent: int) -> tuple[int, int]:
    """One number is both."""
    value = raw.get(name)
    if isinstance(value, list):
        if len(value) != 2:
            raise ConfigError(f"{name}={shown(value)} in config.json is neither a number nor [height, width]")
        height, width = (number({name: each}, name) for each in value)
        return height, width
    side = number(raw, name, silent)
    return side, side


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes' names, by their numbers; where it is silent, those that transformers gives."""
    named = raw.get("id2label")
    if named is None:
        count = raw.get("num_labels")
        return tuple(f"LABEL_{label}" for label in range(2 if count is None else _count(count)))
    if not isinstance(named, Mapping) or {str(each) for each in named} != {str(each) for each in range(len(named))}:
        raise ConfigError(f"id2label={shown(named)} in config.json does not name the classes 0, 1, 2, …")
    return tuple(str(name) for _, name in sorted(named.items(), key=lambda each: int(each[0])))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**6:
        raise ConfigError(f"num_labels={shown(value)} in config.json is not a number of classes")
    return value


LAYER = "vit.encoder.layer.{layer}"
MODULES = {
    "embed/projection": "vit.embeddings.patch_embeddings.projection",
    "blocks/attention_norm": f"{LAYER}.layernorm_before",
    "blocks/attention/query": f"{LAYER}.attention.attention.query",
    "blocks/attention/key": f"{LAYER}.attention.attention.key",
    "blocks/attention/value": f"{LAYER}.attention.attention.value",
    "blocks/attention/output": f"{LAYER}.attention.output.dense",
    "blocks/mlp_norm": f"{LAYER}.layernorm_after",
    "blocks/mlp/intermediate": f"{LAYER}.intermediate.dense",
    "blocks/mlp/output": f"{LAYER}.output.dense",
    "norm": "vit.layernorm",
    "classifier": "classifier",
}
BY_THEMSELVES = {
    "embed/cls_token": "vit.embeddings.cls_token",
    "embed/positions": "vit.embeddings.position_embeddings",
}
# transformers 5 has these modules in memory, and writes the older names, as above.
NEWER = {
    **{
        f"attention.{letter}_proj": f"attention.attention.{name}"
        for letter, name in zip("qkv", ("query", "key", "value"), strict=True)
    },
    **{"attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"},
}


def weight(path: str) -> Weight:
    """The entry of our path."""
    if path in BY_THEMSELVES:
        return Weight(path, BY_THEMSELVES[path], transposed=False)
    return named(MODULES)(path)


def canonical(name: str) -> str:
    """A weight's name as transformers writes it."""
    found = re.fullmatch(r"vit\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None:
        return name
    layer, module, leaf = found.groups()
    return f"vit.encoder.layer.{layer}.{NEWER.get(module, module)}.{leaf}"


def _with_labels(config: ViTConfig, names: Collection[str]) -> ViTConfig:
    """Where there is a head."""
    return config if "classifier.weight" in names else dataclasses.replace(config, labels=())


NAMES = Names(
    weight,
    base="vit",
    modules=("embeddings", "encoder", "layers", "layernorm"),
    embedding="vit.embeddings.cls_token",
    head="classifier.weight",
    kept="classifier.",
    buffers=(),
    unread=("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"),
    canonical=canonical,
    adapt=_with_labels,
)
FAMILY = Family(("vit",), ViTConfig, read, NAMES)

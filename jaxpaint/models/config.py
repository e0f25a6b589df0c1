"""Frozen architecture descriptions, read from a checkpoint's own Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxpaint.models import bert_config, llama_config, neox_config
from jaxpaint.models.bert_config import BertConfig
from jaxpaint.models.fields import ConfigError, RopeScaling
from jaxpaint.models.llama_config import LlamaConfig
from jaxpaint.models.neox_config import NeoxConfig

Config: TypeAlias = LlamaConfig | NeoxConfig | BertConfig
READERS: dict[str, Callable[[Mapping[str, Any]], Config]] = {
    "llama": llama_config.from_huggingface,
    "mistral": llama_config.from_huggingface,
    "gpt_neox": neox_config.from_huggingface,
    "bert": bert_config.from_huggingface,
}
CONFIGS: dict[str, type[Config]] = {
    "llama": LlamaConfig,
    "mistral": LlamaConfig,
    "gpt_neox": NeoxConfig,
    "bert": BertConfig,
}


def from_huggingface(raw: Mapping[str, Any]) -> Config:
    """Reads a Hugging Face `config.json` (of transformers 4 or 5) of a known family.

    Raises ConfigError for an unknown model type, a missing number, or an attribute that would change the result
    and is not handled.
    """
    model_type = raw.get("model_type")
    if model_type not in READERS:
        raise ConfigError(
            f"model_type {model_type!r} is not one this version converts; it knows {', '.join(sorted(READERS))}"
        )
    return READERS[model_type](raw)


def from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from what its `to_dict` gave."""
    scaling = {"rope_scaling": RopeScaling(**values["rope_scaling"])} if values.get("rope_scaling") else {}
    return CONFIGS[values["model_type"]](**{**values, **scaling})

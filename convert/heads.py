"""The output head: tied to the embedding or not, or lacking, as the tensors of a checkpoint have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert.names import Selection
from convert.sources import Source
from convert.tensors import Tensor, abbreviated
from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Config, Names
from jaxpaint.models.fields import is_dynamic, names_of


def untied(weights: Mapping[str, Tensor], config: Config, names: Names) -> tuple[dict[str, Tensor], Any]:
    """The weights by one name each, and the configuration, untied where the head differs from the embedding.

    So does transformers (`PreTrainedModel.tie_weights`): where the config ties two and both are there, they are tied if
    they are equal; where one is there, it serves as both.

    Raises:
        UserError: they differ in a family that has no untied head.
    """
    found = dict(weights)
    for second, first in names.twice:  # what the head reads, where the two should differ
        if second in found:
            found[first] = found.pop(second)
    head, embedding = found.get(names.head), found.get(names.embedding)
    if not config.tie_word_embeddings or head is None:
        return found, config
    if embedding is not None and not _equal(head, embedding):
        if "tie_word_embeddings" not in names_of(type(config)):
            raise UserError(
                f"{head.name} {list(head.shape)} in {head.file} differs from {embedding.name} {list(embedding.shape)}: "
                f"a {config.model_type} model's head is its embedding"
            )
        return found, dataclasses.replace(config, tie_word_embeddings=False)  # type: ignore[type-var]
    del found[names.head]
    return {**found, names.embedding: embedding or head}, config


def without_head(
    config: Config, weights: Mapping[str, Tensor], names: Names, selected: Selection, raw: Mapping[str, Any]
) -> Any:
    """The configuration of a decoder that was saved without its head: the base model alone, or with another head.

    Where the head should be there, it stays in the configuration, and the checkpoint lacks it.
    """
    if not config.capabilities.decoder or config.tie_word_embeddings or names.head in weights:
        return config
    architectures = raw.get("architectures") or ()
    other = bool(architectures) and not any(str(name).endswith(("CausalLM", "LMHeadModel")) for name in architectures)
    if selected.base_alone or selected.left_out or other:
        return dataclasses.replace(config, has_lm_head=False)  # type: ignore[call-arg, type-var]
    return config


def remarks(found: Source, config: Config, selected: Selection) -> Iterator[str]:
    """What a person may not expect of this conversion, a line each."""
    if selected.left_out:
        yield f"{found.name}: left out {abbreviated(selected.left_out)}, which {_are(selected.left_out)} no part of it"
    if config.capabilities.decoder and not config.capabilities.lm_head:
        yield f"{found.name} has no language model's head: it gives hidden states and no logits"
    if found.config.get("tie_word_embeddings") and not config.tie_word_embeddings:
        yield (
            f"{found.name}: its head differs from its embedding and is used, although config.json ties the two "
            "(tie_word_embeddings), as transformers 5 reads it"
        )
    if is_dynamic(found.config):
        yield (
            f"{found.name}: texts may have {config.max_position_embeddings} tokens; its rope scaling 'dynamic' turns "
            "those of longer ones otherwise, which jaxpaint does not"
        )


def _are(items: Any) -> str:
    return "is" if len(items) == 1 else "are"


def _equal(head: Tensor, embedding: Tensor) -> bool:
    return head.shape == embedding.shape and all(
        np.array_equal(block, other) for (_, block), (_, other) in zip(head.blocks(), embedding.blocks(), strict=True)
    )

"""What users give to a model, texts or token ids as rows of tokens, or images as rows of patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import require_characters
from jaxpaint.engine.patches import image_inputs
from jaxpaint.engine.rows import Inputs, checked_inputs, checked_texts
from jaxpaint.models.family import Config

Given: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]] | ArrayLike
"""A text, several, token ids of several, which need not be equally many, or an array of them [B, S].

For a model of images: the name of a file, several, or pixel values [B, channels, height, width] as a checkpoint's
processor gives them.
"""


GivenTexts: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]]
"""A text, or several, each as such or as token ids."""


class HasTokenizer(Protocol):
    """A model, whose tokenizer is asked only for texts."""

    @property
    def tokenizer(self) -> Any: ...


class ReadsInputs(HasTokenizer, Protocol):
    """A model, whose image processor is asked only for files of images."""

    @property
    def image_processor(self) -> Any: ...


def each_of(texts: GivenTexts) -> list[Any]:
    """One text by itself is a list of one."""
    return [texts] if isinstance(texts, str) else list(texts)


def token_ids(model: HasTokenizer, texts: GivenTexts) -> list[Sequence[int]]:
    """The texts as the tokenizer encodes them, with its own special tokens; token ids are left as they are.

    Raises UserError for an empty text, or one that is no text.
    """
    several = each_of(texts)
    for number, text in enumerate(several, 1):
        if isinstance(text, str):
            require_characters(text, f"text {number} of {len(several)}")
    found = [model.tokenizer.encode(text, verbose=False) if isinstance(text, str) else text for text in several]
    for number, (text, tokens) in enumerate(zip(several, found, strict=True), 1):
        if isinstance(text, str) and not tokens:
            raise UserError(f"text {number} of {len(found)} is empty; give at least one token")
    return found


def inputs_of(
    model: ReadsInputs,
    config: Config,
    given: Given,
    lengths: ArrayLike | None = None,
    token_types: ArrayLike | None = None,
) -> Inputs:
    """The rows, right-padded; texts as `token_ids`, images as `image_inputs`.

    Raises:
        UserError: no text, an empty one, ids beyond the vocabulary, more tokens than the model has positions, lengths
            or token types that do not fit, an image that cannot be read, or one of another size.
    """
    if config.capabilities.images:
        if lengths is not None or token_types is not None:
            raise UserError("images have neither lengths nor token types; leave them out")
        if isinstance(given, str | Path):
            given = [given]  # type: ignore[list-item]
        if isinstance(given, Sequence) and any(isinstance(each, str | Path) for each in given):
            given = np.stack([model.image_processor(each) for each in given])
        return image_inputs(config, given)  # type: ignore[arg-type]
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Sequence) and any(isinstance(each, str) for each in given):
        if lengths is not None or token_types is not None:
            raise UserError("texts have lengths of their own, and no token types; give token ids with those")
        given = token_ids(model, given)  # type: ignore[arg-type]
    if isinstance(given, Sequence) and _are_ragged(given):
        if lengths is not None or token_types is not None:
            raise UserError("rows of unequal lengths need no lengths, and have no token types: pad them for these")
        texts = checked_texts(given, config)  # type: ignore[arg-type]
        rows = np.zeros((len(texts), max(map(len, texts))), np.int32)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = text
        return checked_inputs(config, rows, np.array([len(text) for text in texts]), None)
    try:
        rows = np.asarray(given)
    except ValueError:  # a row that is a number among rows
        raise UserError(f"tokens must be [batch, seq] integers, not {str(given)[:60]}") from None
    return checked_inputs(config, rows, lengths, token_types)


def _are_ragged(given: Sequence[Any]) -> bool:
    return len({len(each) for each in given if hasattr(each, "__len__")}) > 1

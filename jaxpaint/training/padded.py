"""Texts in rows of one length, to train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELLED_STEP = 16  # rows of 16, 32, 48, … tokens with a label: each length is compiled for


def row_length(longest: int, step: int) -> int:
    """Tokens of the rows that hold a text of so many."""
    return -(-longest // step) * step


def padded(texts: Sequence[Sequence[int] | np.ndarray], rows: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts in the first of so many rows, and the rows' lengths: 1 of those without a text."""
    tokens = np.zeros((rows, row_length(max(map(len, texts)), step)), np.int32)
    lengths = np.ones(rows, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], lengths[row] = text, len(text)
    return tokens, lengths

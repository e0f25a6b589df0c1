"""Batches of painter-16's language: whole texts laid one after the other into rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.painter.language import texts
from jaxpaint.painter.tokenizer import BOS, EOS, VOCABULARY


class Batch(NamedTuple):
    """Rows of texts, as `jaxpaint.models.attention.visibility` reads them: `tokens`, their `positions` in their texts,
    and where their texts end, `visible_until`. `predicted` marks tokens whose next token belongs to the same text."""

    tokens: Int[np.ndarray, "B S"]
    positions: Int[np.ndarray, "B S"]
    visible_until: Int[np.ndarray, "B S"]
    predicted: Bool[np.ndarray, "B S"]


def batches(seed: int, rows: int, length: int, *, of_held_out: bool = False) -> Iterator[Batch]:
    """Batches without end of `rows` rows of `length` tokens."""
    told = _encoded(seed, length, of_held_out)
    waiting: list[list[int]] = []
    while True:
        batch = Batch(
            np.zeros((rows, length), np.int32),
            np.zeros((rows, length), np.int32),
            np.tile(np.arange(1, length + 1, dtype=np.int32), (rows, 1)),
            np.zeros((rows, length), bool),
        )
        for row in range(rows):
            _fill(batch, row, length, waiting, told)
        yield batch


def _encoded(seed: int, longest: int, of_held_out: bool) -> Iterator[list[int]]:
    for text in texts(seed, of_held_out=of_held_out):
        tokens = [VOCABULARY[BOS], *(VOCABULARY[word] for word in text.split()), VOCABULARY[EOS]]
        if len(tokens) <= longest:
            yield tokens


def _fill(batch: Batch, row: int, length: int, waiting: list[list[int]], told: Iterator[list[int]]) -> None:
    """The longest texts that fit, of some that wait, until none does."""
    start = 0
    while True:
        waiting.extend(islice(told, 32 - len(waiting)))
        waiting.sort(key=len)
        fitting = [index for index, tokens in enumerate(waiting) if len(tokens) <= length - start]
        if not fitting:
            return
        # The first of a row is any one, so that long texts are not left waiting.
        tokens = waiting.pop(fitting[-1] if start else fitting[row % len(fitting)])
        stop = start + len(tokens)
        batch.tokens[row, start:stop] = tokens
        batch.positions[row, start:stop] = np.arange(len(tokens))
        batch.visible_until[row, start:stop] = stop
        batch.predicted[row, start : stop - 1] = True
        start = stop

"""Batches of examples to train on: their order, and rows of few shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxpaint.engine.inputs import Inputs
from jaxpaint.training.features import Encoded

ROW_STEP = 16  # rows of 16, 32, 48, …: each is compiled for


class Batch(NamedTuple):
    """Examples and what the loss of each counts in the batch's mean: 0 for rows that hold none."""

    inputs: Inputs
    labels: np.ndarray
    weights: Float[np.ndarray, " B"]


@dataclass(frozen=True, eq=False)
class ShuffledBatches:
    """Encoded examples in the order of `shuffled`; called with a step, the batches from it on.

    Each is in parts of `part_rows`, the shortest examples first, so that only the last part is as wide as the longest
    (default: a batch is one part).
    """

    encoded: Encoded
    labels: np.ndarray
    order: Int[np.ndarray, "steps batch"]
    weights: Float[np.ndarray, "steps batch"]
    part_rows: int | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, first: int) -> Iterator[tuple[Batch, ...]]:
        lengths = np.array([len(text) for text in self.encoded.tokens])
        for order, weights in zip(self.order[first:], self.weights[first:], strict=True):
            size = self.part_rows or len(order)
            by_length = np.argsort(np.where(weights > 0, lengths[order], np.iinfo(np.int64).max), kind="stable")
            parts = [by_length[start : start + size] for start in range(0, len(order), size)]
            yield tuple(self._part(order[part], weights[part], size) for part in parts if weights[part].any())

    def _part(self, order: np.ndarray, weights: np.ndarray, size: int) -> Batch:
        order, weights = (np.pad(each, (0, size - len(each))) for each in (order, weights))
        chosen = order[weights > 0]
        longest = max(len(self.encoded.tokens[example]) for example in chosen)
        tokens = np.zeros((len(order), -(-longest // ROW_STEP) * ROW_STEP), np.int32)
        token_types, lengths = np.zeros_like(tokens), np.ones(len(order), np.int32)
        for row, example in enumerate(chosen):
            text = self.encoded.tokens[example]
            tokens[row, : len(text)], lengths[row] = text, len(text)
            token_types[row, : len(text)] = self.encoded.token_types[example]
        return Batch(Inputs(tokens, lengths, token_types), self.labels[order], weights)

"""Batches of texts with their answers: rows of few shapes, and what each answer's token counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxpaint.engine.packing import Request

ROW_STEP = 32  # rows of 32, 64, 96, … tokens, answers of 16, 32, 48, …: each pair is compiled for
ANSWER_STEP = 16


class Batch(NamedTuple):
    """Right-padded texts; at the positions `scored` of each row the `targets` are to be predicted.

    `weights` are the parts of a target's loss in the batch's mean over tokens: 0 where there is no target.
    """

    tokens: Int[np.ndarray, "B S"]
    lengths: Int[np.ndarray, " B"]
    scored: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    weights: Float[np.ndarray, "B T"]


@dataclass(frozen=True, eq=False)
class AnswerBatches:
    """Requests in the order of `jaxpaint.training.training_order.shuffled`; called with a step, the batches from it on.

    Each comes in parts of `part_rows`, the shortest requests first; every part of a batch has that many rows, those
    without a request weightless.
    """

    requests: Sequence[Request]
    order: Int[np.ndarray, "steps batch"]
    weights: Float[np.ndarray, "steps batch"]
    part_rows: int

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, first: int) -> Iterator[tuple[Batch, ...]]:
        for order, weights in zip(self.order[first:], self.weights[first:], strict=True):
            chosen = sorted(
                (self.requests[example] for example in order[weights > 0].tolist()), key=lambda each: len(each.tokens)
            )
            total = sum(len(request.targets) for request in chosen)
            parts = [chosen[start : start + self.part_rows] for start in range(0, len(chosen), self.part_rows)]
            yield tuple(_batch(part, self.part_rows, total) for part in parts)


def row_length(requests: Sequence[Request]) -> int:
    """Tokens of the rows that hold the longest of the requests."""
    return _up(max(len(request.tokens) for request in requests), ROW_STEP)


def _batch(requests: Sequence[Request], rows: int, total: int) -> Batch:
    tokens = np.zeros((rows, row_length(requests)), np.int32)
    lengths = np.ones(rows, np.int32)
    answers = (rows, _up(max(len(request.targets) for request in requests), ANSWER_STEP))
    scored, targets, weights = np.zeros(answers, np.int32), np.zeros(answers, np.int32), np.zeros(answers, np.float32)
    for row, request in enumerate(requests):
        end, count = len(request.tokens), len(request.targets)
        tokens[row, :end], lengths[row] = request.tokens, end
        scored[row, :count] = np.arange(end - count, end)
        targets[row, :count], weights[row, :count] = request.targets, 1 / total
    return Batch(tokens, lengths, scored, targets, weights)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step

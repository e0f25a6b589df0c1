"""Batches to train on: the order of examples, and padded rows of few shapes, a batch in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxpaint.engine.packing import Request
from jaxpaint.engine.rows import Inputs
from jaxpaint.training.features import InRows
from jaxpaint.training.padded import padded

# Rows of 32, 64, 96, … tokens with answers of 16, 32, 48, …: each is compiled for.
REQUEST_STEP = 32
ANSWER_STEP = 16


class Batch(NamedTuple):
    """Right-padded texts with what is to be predicted of them.

    The `targets` are tokens at the positions `scored` of each row, or without these a row's label. `weights` are the
    parts of a target's loss in the whole batch's mean: 0 where there is no target.
    """

    inputs: Inputs
    scored: Int[np.ndarray, "B T"] | None
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Batches:
    """Examples in the order of `shuffled`; called with a step, the batches from it on.

    Each comes in parts of `part_rows`, the shortest examples first, so that only the last part is as wide as the
    longest. Every part has that many rows, those without an example weightless. `make` gives the part of these rows
    that holds some of a whole batch's examples: `make(part, whole, part_rows)`.
    """

    make: Callable[[np.ndarray, np.ndarray, int], Batch]
    lengths: Int[np.ndarray, " examples"]
    order: Int[np.ndarray, "steps batch"]
    weights: Float[np.ndarray, "steps batch"]
    part_rows: int

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, first: int) -> Iterator[tuple[Batch, ...]]:
        for order, weights in zip(self.order[first:], self.weights[first:], strict=True):
            whole = order[weights > 0]
            whole = whole[np.argsort(self.lengths[whole], kind="stable")]
            parts = (whole[start : start + self.part_rows] for start in range(0, len(whole), self.part_rows))
            yield tuple(self.make(part, whole, self.part_rows) for part in parts)


def answer_batches(
    requests: Sequence[Request],
    order: Int[np.ndarray, "steps batch"],
    weights: Float[np.ndarray, "steps batch"],
    part_rows: int,
) -> Batches:
    """Of requests whose targets are answers; every token of a batch's answers counts alike."""
    answers = np.array([len(request.targets) for request in requests])

    def make(part: np.ndarray, whole: np.ndarray, rows: int) -> Batch:
        tokens, lengths = padded([requests[example].tokens for example in part], rows, REQUEST_STEP)
        targets, counts = padded([requests[example].targets for example in part], rows, ANSWER_STEP)
        counts[len(part) :] = 0
        place = np.arange(targets.shape[1])
        is_target = place < counts[:, None]
        scored = np.where(is_target, lengths[:, None] - counts[:, None] + place, 0).astype(np.int32)
        weight = np.where(is_target, 1 / answers[whole].sum(), 0).astype(np.float32)
        return Batch(Inputs(tokens, lengths, None), scored, targets, weight)

    return Batches(make, np.array([len(request.tokens) for request in requests]), order, weights, part_rows)


def labelled_batches(
    examples: InRows,
    labels: np.ndarray,
    order: Int[np.ndarray, "steps batch"],
    weights: Float[np.ndarray, "steps batch"],
    part_rows: int | None = None,
) -> Batches:
    """Of examples with labels, which count alike (default: a batch is one part)."""

    def make(part: np.ndarray, whole: np.ndarray, rows: int) -> Batch:
        targets, weight = np.zeros(rows, labels.dtype), np.zeros(rows, np.float32)
        targets[: len(part)], weight[: len(part)] = labels[part], 1 / len(whole)
        return Batch(examples.rows(part, rows), None, targets, weight)

    return Batches(make, examples.lengths, order, weights, part_rows or order.shape[1])


def shuffled(
    examples: int, batch_size: int, epochs: int, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Float[np.ndarray, "steps batch"]]:
    """Example indices of every step, and their weights in its mean: 0 fills up the last batch of an epoch."""
    random = np.random.default_rng(seed)
    steps = -(-examples // batch_size)
    order = np.zeros((epochs, steps * batch_size), np.int32)
    weight = np.zeros((epochs, steps * batch_size), np.float32)
    for epoch in range(epochs):
        order[epoch, :examples], weight[epoch, :examples] = random.permutation(examples), 1.0
    weight = weight.reshape(-1, batch_size)
    return order.reshape(-1, batch_size), weight / weight.sum(axis=1, keepdims=True)

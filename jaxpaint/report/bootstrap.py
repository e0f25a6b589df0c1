"""Resampling of documents: every plan on the same draws, so that plans are compared document by document."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
SEED = 0
LEVEL = 95  # per cent, of every interval of a report
BLOCK = 4_000_000  # random numbers held at once


@dataclass(frozen=True, eq=False)
class Means:
    """Mean scores of every plan P, and of the reference plan on the very documents that the plan was scored on.

    `value` and `reference` are float64 [P], `draws` and `reference_draws` float64 [DRAWS, P] (or [DRAWS, 1], the same
    for every plan); NaN where a plan shares no document with the reference.
    """

    value: np.ndarray
    reference: np.ndarray
    draws: np.ndarray
    reference_draws: np.ndarray


def resampled_means(scores: np.ndarray, reference: int, name: str) -> Means:
    """Bootstrap over documents: `scores` is float64 [P, documents], NaN where not scored.

    The draws depend on `name` and the number of documents alone.
    """
    present = ~np.isnan(scores) & ~np.isnan(scores[reference])
    filled, counts = np.where(present, scores, 0.0), _counts(scores.shape[1], name)
    if present.all():  # the usual case, in a third of the time
        drawn = counts @ filled.T / scores.shape[1]
        value = scores.mean(axis=1)
        return Means(value, np.full_like(value, value[reference]), drawn, drawn[:, [reference]])
    of_reference = np.where(present, np.nan_to_num(scores[reference]), 0.0)
    sizes, drawn_sizes = present.sum(axis=1), counts @ present.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Means(
            filled.sum(axis=1) / sizes,
            of_reference.sum(axis=1) / sizes,
            counts @ filled.T / drawn_sizes,
            counts @ of_reference.T / drawn_sizes,
        )


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval around draws [DRAWS, ...], NaN where any draw is."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high


def generator(*name: str | int) -> np.random.Generator:
    """Random numbers that depend on the name alone."""
    return np.random.default_rng([SEED, *(zlib.crc32(str(part).encode()) for part in name)])


def _counts(num_documents: int, name: str) -> np.ndarray:
    """How often each resample holds each document: float64 [DRAWS, documents]."""
    random, counts = generator(name), np.empty((DRAWS, num_documents))
    rows = max(1, BLOCK // max(1, num_documents))
    for first in range(0, DRAWS, rows):
        block = counts[first : first + rows]
        chosen = random.integers(num_documents, size=block.shape) + num_documents * np.arange(len(block))[:, None]
        block[:] = np.bincount(chosen.ravel(), minlength=block.size).reshape(block.shape)
    return counts

"""How numbers of texts become one number with its standard error: sums over batches, so that no text is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

Sums: TypeAlias = tuple[np.ndarray, ...]


class Estimate(NamedTuple):
    """A number for each step, state or pair, and its standard error over texts: NaN where there is none."""

    value: Float[np.ndarray, "*where"]
    stderr: Float[np.ndarray, "*where"]


@dataclass(frozen=True)
class Reduction:
    """`sums` are added up over batches of texts, of their numbers [*where, texts] and weights; `estimate` reads them.

    Weights are float64 [texts], or what broadcasts to the numbers with texts last.
    """

    sums: Callable[[np.ndarray, np.ndarray], Sums]
    estimate: Callable[[Sums], Estimate]


def added(first: Sums | None, second: Sums) -> Sums:
    """The sums of both; None is of nothing."""
    return second if first is None else tuple(a + b for a, b in zip(first, second, strict=True))


def _mean_sums(values: np.ndarray, weights: np.ndarray) -> Sums:
    values = np.where(weights > 0, values, 0)
    return (
        values.sum(axis=-1),
        np.square(values).sum(axis=-1),
        (values * weights).sum(axis=-1),
        weights.sum(axis=-1),
        np.square(weights).sum(axis=-1),
        (weights > 0).sum(axis=-1),
    )


def _mean(sums: Sums) -> Estimate:
    total, squares, products, weight, weight_squares, texts = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total / weight
        # Of the texts' residuals from value x weight: the linearised standard error of a ratio of two sums.
        residuals = np.maximum(squares - 2 * value * products + np.square(value) * weight_squares, 0)
        return Estimate(value, np.where(texts > 1, np.sqrt(residuals * texts / (texts - 1)) / weight, np.nan))


# Sum of numbers over sum of weights. Where every weight is 1 its standard error is that of a mean, s / sqrt(texts);
# else it is the ratio estimator's, whose sample are texts too (Cochran, "Sampling Techniques", section 6.4).
MEAN = Reduction(_mean_sums, _mean)

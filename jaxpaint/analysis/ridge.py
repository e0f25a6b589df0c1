"""Ridge regression in closed form from sums over samples, which add up over batches: no sample is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Of the mean variance of an input, over all samples; chosen among on samples that the fit has not seen.
PENALTIES = 10.0 ** np.arange(-8, 3)


class Moments(NamedTuple):
    """Sums over samples of inputs x [D] and outputs y [E], in float64; `yy` is that of the squares of all outputs."""

    samples: float
    x: Float[np.ndarray, " D"]
    y: Float[np.ndarray, " E"]
    xx: Float[np.ndarray, "D D"]
    xy: Float[np.ndarray, "D E"]
    yy: float

    @classmethod
    def of(cls, x: Float[np.ndarray, "samples D"], y: Float[np.ndarray, "samples E"]) -> Moments:
        x, y = x.astype(np.float64), y.astype(np.float64)
        return cls(float(len(x)), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y, float(np.square(y).sum()))

    def __add__(self, other: Moments) -> Moments:  # type: ignore[override]
        return Moments(
            self.samples + other.samples,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )


class Ridge(NamedTuple):
    """y = x @ weights + intercept, the `penalty` that it was fitted with, and R² on samples that it was not."""

    weights: Float[np.ndarray, "D E"]
    intercept: Float[np.ndarray, " E"]
    penalty: float
    r2: float


def ridge(moments: Moments, penalty: float) -> tuple[Float[np.ndarray, "D E"], Float[np.ndarray, " E"]]:
    """Weights and intercept that minimise |y - x @ weights - intercept|² + penalty |weights|² over the samples."""
    return next(iter(_fits(moments, np.array([penalty]))))


def chosen(train: Moments, held_out: Moments, penalties: Float[np.ndarray, " P"] = PENALTIES) -> Ridge:
    """Fitted on `train` with that of the penalties, in units of an input's mean variance, which fits `held_out` best.

    R² is of all outputs together: 1 - their squared errors over their squared distances from their means. All is NaN
    without samples, or where they are not finite.
    """
    if not (train.samples and held_out.samples and np.isfinite(train.xx).all() and np.isfinite(train.xy).all()):
        nothing = np.full(train.xy.shape, np.nan)
        return Ridge(nothing, nothing[0], np.nan, np.nan)
    # Inputs that are all the same vary by rounding alone, which is not to be fitted.
    rounding = np.finfo(np.float64).eps * np.trace(train.xx) + np.finfo(np.float64).tiny
    scaled = penalties * max(np.trace(_centred(train)[0]), rounding) / len(train.x)
    best: Ridge | None = None
    for penalty, (weights, intercept) in zip(scaled.tolist(), _fits(train, scaled), strict=True):
        r2 = _r2(held_out, weights, intercept)
        if best is None or r2 > best.r2:
            best = Ridge(weights, intercept, penalty, r2)
    assert best is not None
    return best


def _centred(moments: Moments) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "D E"]]:
    mean = moments.x / moments.samples
    return moments.xx - np.outer(mean, moments.x), moments.xy - np.outer(mean, moments.y)


def _fits(
    moments: Moments, penalties: Float[np.ndarray, " P"]
) -> Iterator[tuple[Float[np.ndarray, "D E"], Float[np.ndarray, " E"]]]:
    """Weights and intercept for each penalty: one decomposition serves all."""
    products, outputs = _centred(moments)
    values, vectors = np.linalg.eigh(products)
    values, turned = np.maximum(values, 0)[:, None], vectors.T @ outputs
    for penalty in penalties:
        weights = vectors @ (turned / (values + penalty))
        yield weights, (moments.y - moments.x @ weights) / moments.samples


def _r2(moments: Moments, weights: Float[np.ndarray, "D E"], intercept: Float[np.ndarray, " E"]) -> float:
    errors = moments.yy - 2 * np.sum(weights * moments.xy) - 2 * intercept @ moments.y
    errors += np.sum(weights * (moments.xx @ weights)) + 2 * intercept @ (moments.x @ weights)
    errors += moments.samples * intercept @ intercept
    whole = moments.yy - moments.y @ moments.y / moments.samples
    return float(1 - errors / whole) if whole > 0 else float("nan")

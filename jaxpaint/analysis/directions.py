"""Probes of the directions of the tokens' vectors: Block Influence and angular distance."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.probes import Probe, Texts, direction, every_token
from jaxpaint.analysis.sums import MEAN, Reduction, Sums


def _influence(x: Float[Array, "B S D"], y: Float[Array, "B S D"], texts: Texts) -> Float[Array, " B"]:
    # 1 - cos of two vectors is half the squared distance of their directions, which loses no digits near 0.
    distance = jnp.square(direction(x) - direction(y)).sum(axis=-1) / 2
    return distance.sum(axis=-1)


# 1 - E[cos(x_t, y_t)] over all tokens t of all texts, of a step from x to y (Men et al., "ShortGPT", arXiv 2403.03853).
BLOCK_INFLUENCE = Probe("block_influence", "step", _influence, weights=every_token)


def _angle(state: Float[Array, "B S D"], other: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    """In radians, at the last tokens."""
    last = (lengths - 1)[:, None, None]
    u, v = (direction(jnp.take_along_axis(x, last, axis=1)[:, 0]) for x in (state, other))
    # Kahan's formula: exact near 0 and pi, where arccos loses half the digits.
    return 2 * jnp.arctan2(jnp.linalg.norm(u - v, axis=-1), jnp.linalg.norm(u + v, axis=-1))


def _none_with_itself(angles: Float[np.ndarray, "states states texts"]) -> Float[np.ndarray, "states states texts"]:
    on_itself = np.einsum("iib->ib", angles)
    on_itself *= 0  # rounding left 1e-8 of it; NaN stays
    return angles


def _half_turns(angles: np.ndarray, weights: np.ndarray) -> Sums:
    total, squares, products, *rest = MEAN.sums(angles, weights)
    return total / np.pi, squares / np.pi**2, products / np.pi, *rest


def _later(distances: Float[np.ndarray, "states states"]) -> list[np.ndarray]:
    """Entry [l][n - 1] is d(x_l, x_(l+n)), so that rows grow shorter by one."""
    return [row[start:] for start, row in enumerate(distances[:-1], 1)]


# Mean over texts of arccos(cos(x_t, y_t)) / pi at the last token t, 0 (alike) to 1 (opposite) (Gromov et al., "The
# Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887). Their d(x_l, x_(l+n)) is entry [l, l + n].
ANGULAR_DISTANCE = Probe(
    "angular_distance",
    "pair",
    _angle,
    of_texts=_none_with_itself,
    reduction=Reduction(_half_turns, MEAN.estimate),
    listed=_later,
)

"""The clock: which depth of the full model a state looks like, from 0 (its embeddings) to 1 (its last state).

Ridge regression from states of the full model, scaled to a root mean square of 1, to their depth as a share of its
layers; for last tokens and all others apart. On a plan's states it tells whether a step goes on, stands still or back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.fits import Fit, States
from jaxpaint.analysis.probes import Probe, Sample, Texts
from jaxpaint.analysis.ridge import Moments, Ridge

FLOOR = 1e-30  # of a mean square


def _sums(states: States, lengths: Int[np.ndarray, " texts"], role: int) -> Moments:
    """Of the last tokens, or of the others."""
    places = np.arange(states[0].shape[1])
    chosen = places == lengths[:, None] - 1 if role == 0 else places < lengths[:, None] - 1
    total = None
    for number, state in enumerate(states):
        x = state[chosen].astype(np.float64)
        x /= np.sqrt(np.maximum(np.square(x).mean(axis=-1, keepdims=True), FLOOR))
        moments = Moments.of(x, np.full((len(x), 1), number / (len(states) - 1)))
        total = moments if total is None else total + moments
    assert total is not None
    return total


def _gathered(fits: Sequence[Ridge]) -> tuple[Float[np.ndarray, "D roles"], Float[np.ndarray, " roles"]]:
    return np.concatenate([fit.weights for fit in fits], axis=1), np.concatenate([fit.intercept for fit in fits])


CLOCK_FIT = Fit(
    "clock",
    count=lambda config: 2,
    sums=_sums,
    gathered=_gathered,
    sums_bytes=lambda config: (2 + 4) * 8 * config.hidden_size**2,
    kept_bytes=lambda config: 2 * 2 * 4 * config.hidden_size,
)


def depths(x: Float[Array, "B S D"], texts: Texts) -> Float[Array, "B S"]:
    """The clock's reading at every token, by its role: from 0 to 1."""
    weights, intercepts = texts.fitted[CLOCK_FIT.name]
    x = x.astype(jnp.float32)
    x *= 1 / jnp.sqrt(jnp.maximum(jnp.square(x).mean(axis=-1, keepdims=True), FLOOR))
    readings = jnp.clip(x @ weights + intercepts, 0, 1)
    return jnp.where(_is_last(texts), readings[..., 0], readings[..., 1])


def _is_last(texts: Texts) -> Any:
    return jnp.arange(texts.tokens.shape[1]) == texts.lengths[:, None] - 1


def _readings(x: Float[Array, "B S D"], texts: Texts) -> Float[Array, "2 B"]:
    """Of the last token, and the sum over the others."""
    readings = depths(x, texts)
    before = jnp.arange(x.shape[1]) < texts.lengths[:, None] - 1
    return jnp.stack([jnp.where(each, readings, 0).sum(axis=1) for each in (_is_last(texts), before)])


def _roles(sample: Sample) -> Float[np.ndarray, "2 texts"]:
    return np.stack([np.ones(len(sample.lengths)), sample.lengths - 1.0]) * sample.held_out


# Of each state [2]: the mean reading at last tokens, and at all others, of the texts that were held out of the fit.
CLOCK = Probe("clock", "state", _readings, weights=_roles, fits=(CLOCK_FIT,))

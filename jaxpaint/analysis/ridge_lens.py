"""The ridge lens: a state mapped to what the full model would make of it, then read as the logit lens reads it.

For each depth of the full model, ridge regression from its states there to its last states, over all tokens. A plan's
state is mapped by the map of the depth that the clock (`jaxpaint.analysis.clock`) reads off it, token by token. It is
what the tuned lens (Belrose et al., arXiv 2303.08112) trains, in closed form and for squared errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.clock import CLOCK_FIT, depths
from jaxpaint.analysis.fits import Fit, States
from jaxpaint.analysis.lens import next_and_last, next_or_last
from jaxpaint.analysis.probes import Probe, Sample, Texts
from jaxpaint.analysis.ridge import Moments, Ridge


def _sums(states: States, lengths: Int[np.ndarray, " texts"], depth: int) -> Moments:
    """Of the states at a depth and the last ones, of all tokens."""
    is_text = np.arange(states[0].shape[1]) < lengths[:, None]
    return Moments.of(states[depth][is_text], states[-1][is_text])


def _gathered(fits: Sequence[Ridge]) -> tuple[Float[np.ndarray, "depths D D"], Float[np.ndarray, "depths D"]]:
    return np.stack([fit.weights for fit in fits]), np.stack([fit.intercept for fit in fits])


MAPS_FIT = Fit(
    "ridge_lens",
    count=lambda config: config.num_hidden_layers + 1,
    sums=_sums,
    gathered=_gathered,
    # Two matrices of each half, and what solving them takes: both centred, eigenvectors with room for them.
    sums_bytes=lambda config: (4 + 5) * 8 * config.hidden_size**2,
    kept_bytes=lambda config: 2 * 4 * (config.num_hidden_layers + 1) * config.hidden_size**2,
)


def _mapped(x: Float[Array, "B S D"], texts: Texts) -> Float[Array, "B S D"]:
    maps, offsets = texts.fitted[MAPS_FIT.name]
    depth = jnp.round(depths(x, texts) * (len(maps) - 1))[..., None]
    wide = x.astype(jnp.float32)

    # One map at a time: a map of its own for each token would take as many copies.
    def with_map(found: Array, each: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, weights, offset = each
        return jnp.where(depth == number, wide @ weights + offset, found), None

    found, _ = jax.lax.scan(with_map, jnp.zeros_like(wide), (jnp.arange(len(maps)), maps, offsets))
    return found.astype(x.dtype)


def _held_out(sample: Sample) -> Float[np.ndarray, "4 texts"]:
    return next_or_last(sample) * sample.held_out


# As `LOGIT_LENS`, of the mapped states, on the texts that were held out of the fits.
RIDGE_LENS = Probe("ridge_lens", "lens", next_and_last, weights=_held_out, through=_mapped, fits=(CLOCK_FIT, MAPS_FIT))

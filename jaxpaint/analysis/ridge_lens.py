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
from jaxpaint.analysis.fits import Fit, Fitted, States
from jaxpaint.analysis.lens import next_and_last, next_or_last
from jaxpaint.analysis.probes import Probe, Sample, Texts
from jaxpaint.analysis.ridge import Moments, chosen
from jaxpaint.models.family import Config


def _sums(states: States, lengths: Int[np.ndarray, " texts"]) -> list[Moments]:
    """Of each depth's states and the last ones."""
    is_text = np.arange(states[0].shape[1]) < lengths[:, None]
    return [Moments.of(state[is_text], states[-1][is_text]) for state in states]


def _solve(train: Sequence[Moments], held: Sequence[Moments]) -> Fitted:
    fits = [chosen(first, second) for first, second in zip(train, held, strict=True)]
    maps = np.stack([fit.weights for fit in fits]).astype(np.float32)
    offsets = np.stack([fit.intercept for fit in fits]).astype(np.float32)
    return Fitted((maps, offsets), np.array([fit.r2 for fit in fits]))


def _held_bytes(config: Config) -> int:
    return 2 * 2 * 8 * (config.num_hidden_layers + 1) * config.hidden_size**2


MAPS_FIT = Fit("ridge_lens", _sums, _solve, _held_bytes)


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

"""Rotary positions: each head's numbers turn with the position of their token (arXiv 2104.09864)."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.models.fields import RopeScaling


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " half"]:
    """Rotary frequencies in radians per token, rescaled as transformers' `ROPE_INIT_FUNCTIONS` does.

    They are constants of a model, so they are computed on the host, in float64, and rounded once.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    if scaling is not None and scaling.rope_type == "linear":
        frequencies = frequencies / scaling.factor
    if scaling is not None and scaling.rope_type == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        # 0 at the lowest frequency that is fully rescaled, 1 at the highest that is kept.
        blend = np.clip((scaling.original_max_position_embeddings / wavelengths - low) / (high - low), 0.0, 1.0)
        frequencies = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    return frequencies.astype(np.float32)


def rope_tables(
    positions: Int[Array, "B S"], frequencies: Float[np.ndarray, " half"]
) -> tuple[Float[Array, "B S 1 2*half"], Float[Array, "B S 1 2*half"]]:
    """Cosines and sines of each position's angles, in float32, with an axis to broadcast over heads."""
    angles = positions[:, :, None, None].astype(jnp.float32) * np.concatenate([frequencies, frequencies])
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
    x: Float[Array, "B S heads H"], cos: Float[Array, "B S 1 H"], sin: Float[Array, "B S 1 H"]
) -> Float[Array, "B S heads H"]:
    """Rotates each head's halves against each other (transformers' `rotate_half` layout)."""
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x.dtype)


def turned(
    x: Float[Array, "B S heads H"], cos: Float[Array, "B S 1 R"], sin: Float[Array, "B S 1 R"]
) -> Float[Array, "B S heads H"]:
    """`apply_rope` to the first R numbers of each head; the others stay."""
    if x.shape[-1] == cos.shape[-1]:
        return apply_rope(x, cos, sin)
    turning, still = jnp.split(x, [cos.shape[-1]], axis=-1)
    return jnp.concatenate([apply_rope(turning, cos, sin), still], axis=-1)

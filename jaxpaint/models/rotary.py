"""Rotary positions: each head's numbers turn with the position of their token (arXiv 2104.09864)."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.models.scalings import LongropeScaling, RopeScaling, Scaling, YarnScaling


def rope_frequencies(head_dim: int, theta: float, scaling: Scaling | None = None) -> Float[np.ndarray, " half"]:
    """Rotary frequencies in radians per token, rescaled as transformers' `ROPE_INIT_FUNCTIONS` does.

    They are constants of a model, so they are computed on the host, in float64, and rounded once.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    match scaling:
        case RopeScaling(rope_type="linear"):
            frequencies = frequencies / scaling.factor
        case RopeScaling(rope_type="llama3"):
            wavelengths = 2 * math.pi / frequencies
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            # 0 at the lowest frequency that is fully rescaled, 1 at the highest that is kept.
            blend = np.clip((scaling.original_max_position_embeddings / wavelengths - low) / (high - low), 0.0, 1.0)
            frequencies = (1 - blend) * frequencies / scaling.factor + blend * frequencies
        case YarnScaling():
            kept = _kept_by_yarn(head_dim, theta, scaling)
            frequencies = (1 - kept) * frequencies / scaling.factor + kept * frequencies
        case LongropeScaling():
            frequencies = frequencies / np.array(scaling.short_factor)
    return frequencies.astype(np.float32)


def attention_factor(scaling: Scaling | None) -> float:
    """What cosines and sines are multiplied by."""
    return scaling.attention_factor if isinstance(scaling, YarnScaling | LongropeScaling) else 1.0


def _kept_by_yarn(head_dim: int, theta: float, scaling: YarnScaling) -> Float[np.ndarray, " half"]:
    """1 for frequencies that stay as they are, 0 for those that are divided, and the ramp between."""

    def index(turns: float) -> float:
        """Of the frequency, as a real number in steps of two, that turns so often over the original context."""
        length = scaling.original_max_position_embeddings
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high += 0.001 if low == high else 0.0
    return 1 - np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)


def rope_tables(
    positions: Int[Array, "B S"], frequencies: Float[np.ndarray, " half"], factor: float = 1.0
) -> tuple[Float[Array, "B S 1 2*half"], Float[Array, "B S 1 2*half"]]:
    """Cosines and sines of each position's angles times `factor`, in float32, with an axis to broadcast over heads."""
    angles = positions[:, :, None, None].astype(jnp.float32) * np.concatenate([frequencies, frequencies])
    if factor == 1.0:
        return jnp.cos(angles), jnp.sin(angles)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def apply_rope(
    x: Float[Array, "B S heads H"], cos: Float[Array, "B S 1 H"], sin: Float[Array, "B S 1 H"]
) -> Float[Array, "B S heads H"]:
    """Rotates each head's halves against each other (transformers' `rotate_half` layout)."""
    if x.dtype == jnp.float32:
        return _whole_heads(x, cos, sin)
    # Sooner than whole heads on a CPU and on a TPU; in float32 not rounded as transformers does (docs/log.md).
    half = x.shape[-1] // 2
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[..., :half], sin[..., :half]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _whole_heads(
    x: Float[Array, "B S heads H"], cos: Float[Array, "B S 1 H"], sin: Float[Array, "B S 1 H"]
) -> Float[Array, "B S heads H"]:
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x.dtype)


def turned(
    x: Float[Array, "B S heads H"], cos: Float[Array, "B S 1 R"], sin: Float[Array, "B S 1 R"]
) -> Float[Array, "B S heads H"]:
    """`apply_rope` to the first R numbers of each head; the others stay."""
    if x.shape[-1] == cos.shape[-1]:
        return apply_rope(x, cos, sin)
    turning, still = jnp.split(x, [cos.shape[-1]], axis=-1)
    # Halves of a part of a head are so narrow that a TPU takes longer for them.
    return jnp.concatenate([_whole_heads(turning, cos, sin), still], axis=-1)

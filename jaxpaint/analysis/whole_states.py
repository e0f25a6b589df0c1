"""Probes of whole states, positions and width flattened (Sun et al., arXiv 2407.09298): similarity and variance."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.probes import Probe, Texts, without_padding


def _product(x: Float[Array, "B S D"], y: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    return (x.astype(jnp.float32) * y.astype(jnp.float32)).sum(axis=-1).sum(axis=-1)


def _cosines(products: Float[np.ndarray, "states states texts"]) -> Float[np.ndarray, "states states texts"]:
    squares = np.einsum("iib->ib", products)
    norms = np.sqrt(squares[:, None] * squares)
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.clip(cosines, -1, 1)


# Mean over texts of the cosine of two states (Figures 3, 14 and 15); zeros count as orthogonal to all that are not.
SIMILARITY = Probe("similarity", "pair", _product, of_texts=_cosines)


def _variance(x: Float[Array, "B S D"], texts: Texts) -> Float[Array, " B"]:
    x, count = x.astype(jnp.float32), texts.lengths * x.shape[-1]
    mean = x.sum(axis=-1).sum(axis=-1) / count
    return without_padding(jnp.square(x - mean[:, None, None]), texts.lengths).sum(axis=-1).sum(axis=-1) / count


# Mean over texts of the variance of a state's entries (Figure 15, which gives no formula: here the mean squared
# distance from the mean entry).
VARIANCE = Probe("variance", "state", _variance)

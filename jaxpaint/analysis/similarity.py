"""How alike whole states are: the cosine between two, positions and width flattened.

Sun et al., arXiv 2407.09298, Figures 3, 14 and 15. A state of zeros counts as orthogonal to all that are not.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.probes import Probe


def _product(
    state: Float[Array, "B S D"], other: Float[Array, "B S D"], lengths: Int[Array, " B"]
) -> Float[Array, " B"]:
    products = state.astype(jnp.float32) * other.astype(jnp.float32)
    return products.sum(axis=-1).sum(axis=-1)


def _cosines(products: Float[np.ndarray, "states states texts"]) -> Float[np.ndarray, "states states"]:
    squares = np.einsum("iib->ib", products)
    norms = np.sqrt(squares[:, None] * squares)
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.clip(cosines, -1, 1).sum(axis=-1)


SIMILARITY = Probe("similarity", "pair", _product, add=_cosines)

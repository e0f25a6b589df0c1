"""How far a state's entries are spread: the mean squared distance from the mean entry, over real positions.

Sun et al., arXiv 2407.09298, Figure 15, which gives no formula.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpaint.analysis.probes import Probe, Texts, without_padding


def _variance(x: Float[Array, "B S D"], texts: Texts) -> Float[Array, " B"]:
    x, count = x.astype(jnp.float32), texts.lengths * x.shape[-1]
    mean = x.sum(axis=-1).sum(axis=-1) / count
    return without_padding(jnp.square(x - mean[:, None, None]), texts.lengths).sum(axis=-1).sum(axis=-1) / count


VARIANCE = Probe("variance", "state", _variance)

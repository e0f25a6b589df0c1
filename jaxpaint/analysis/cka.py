"""Linear CKA: how alike two states are but for a rotation and a scale, tokens of a text as the samples.

Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv 1905.00414, in the form that adds up
over batches (Nguyen et al., arXiv 2010.15327, section 3.1): sums over texts of the unbiased estimate of HSIC (Song et
al., "Feature Selection via Dependence Maximization", equation 5), each text a batch of its own. What is kept are a few
numbers for each pair of states; features' products would take a matrix for each.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.probes import Probe
from jaxpaint.analysis.sums import Estimate, Reduction, Sums

LEAST_TOKENS = 4  # of a text, below which HSIC has no unbiased estimate


def _gram(x: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, "B S S"]:
    """Products of a text's tokens about their mean, without those of a token with itself; 0 where there is padding."""
    x = x.astype(jnp.float32)
    is_text = (jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None]
    # HSIC does not change with the mean, and without it float32 keeps the digits of what differs.
    centred = jnp.where(is_text, x - x.sum(axis=1, keepdims=True) / lengths[:, None, None], 0)
    products = jnp.einsum("bsd,btd->bst", centred, centred, precision="highest")
    return products * (1 - jnp.eye(x.shape[1]))


def _hsic(x: Float[Array, "B S D"], y: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    """Of each text's two states; 0 of a text of less than `LEAST_TOKENS`."""
    k, m = _gram(x, lengths), _gram(y, lengths)
    n = jnp.maximum(lengths, LEAST_TOKENS).astype(jnp.float32)
    k_rows, m_rows = k.sum(axis=-1), m.sum(axis=-1)
    found = (k * m).sum(axis=(-2, -1))
    found += k_rows.sum(axis=-1) * m_rows.sum(axis=-1) / (n - 1) / (n - 2)
    found -= 2 * (k_rows * m_rows).sum(axis=-1) / (n - 2)
    return jnp.where(lengths < LEAST_TOKENS, 0, found / n / (n - 3))


def _sums(hsic: Float[np.ndarray, "states states texts"], weights: Float[np.ndarray, " texts"]) -> Sums:
    """Of the texts' numbers and of their products two by two, with which the estimate's error is told."""
    own = np.einsum("iib->ib", hsic)
    return (
        hsic.sum(axis=-1),
        np.square(hsic).sum(axis=-1),
        np.einsum("ijb,ib->ij", hsic, own),
        own @ own.T,
        weights.sum(),
    )


def _estimate(sums: Sums) -> Estimate:
    total, squares, with_first, of_both, texts = sums
    own = np.diag(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total / np.sqrt(own[:, None] * own)
        # A text's share in value, its own infinitesimal jackknife: value (h_xy / H_xy - h_xx / 2 H_xx - h_yy / 2 H_yy).
        first, second = own[:, None], own[None]
        variance = squares / np.square(total) - (with_first / first + with_first.T / second) / total
        own_squares = np.diag(of_both)
        variance += own_squares[:, None] / np.square(first) / 4 + own_squares[None] / np.square(second) / 4
        variance += of_both / (first * second) / 2
        stderr = np.abs(value) * np.sqrt(np.maximum(variance, 0) * texts / (texts - 1))
    np.fill_diagonal(stderr, np.where(np.isfinite(np.diag(value)), 0, np.nan))
    return Estimate(value, stderr if texts > 1 else np.full_like(value, np.nan))


CKA = Probe("cka", "pair", _hsic, reduction=Reduction(_sums, _estimate))

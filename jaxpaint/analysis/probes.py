"""What a probe is: numbers of each text, read off the hidden states along a plan, and what they come to over texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.analysis.fits import Fit
from jaxpaint.analysis.sums import MEAN, Reduction


class Texts(NamedTuple):
    """The texts whose states a probe reads, right-padded rows, and the merged `nnx` model that reads them.

    `answers` are the tokens that the full model finds most likely after each; None unless a probe reads the lens.
    `fitted` are the parameters of the probes' fits, by the fits' names.
    """

    model: Any
    tokens: Int[Array, "B S"]
    lengths: Int[Array, " B"]
    answers: Int[Array, "B S"] | None = None
    fitted: Mapping[str, Any] = MappingProxyType({})


class Sample(NamedTuple):
    """On the host, what is known of the texts whose numbers are added up.

    Their lengths in tokens, and whether they are held out of fits (`jaxpaint.analysis.fits`).
    """

    lengths: Int[np.ndarray, " texts"]
    held_out: Bool[np.ndarray, " texts"]


def every_text(sample: Sample) -> Float[np.ndarray, " texts"]:
    """Each text counts once."""
    return np.ones(len(sample.lengths))


def every_token(sample: Sample) -> Float[np.ndarray, " texts"]:
    """Each text counts as often as it has tokens; its number is a sum over them."""
    return sample.lengths.astype(np.float64)


@dataclass(frozen=True)
class Probe:
    """One analysis: `name` is its name in the results store.

    reads: What `measure` is given on the device: "state" `(state, texts)`, "step" `(before, after, texts)`, "lens"
        `(reading, texts)`, which is what the logit lens reads of a state (`jaxpaint.analysis.lens`), or "pair" `(state,
        other, lengths)`, of each state with every one before it on its path and with itself. States are [B, S, D], zero
        where there is padding.
    measure: A traced function that gives a number of each text in float32, [B], or several, [numbers, B].
    of_texts: On the host, in float64, what of them are the texts' own numbers: of [states, texts], [steps, texts] or,
        the same for both orders, [states, states, texts]; several come before the texts.
    weights: How much each text counts: what its number is a sum over.
    reduction: What the numbers come to over texts, and how far off that may be.
    listed: What of the result is stored, as nested sequences.
    through: What of a state the lens reads, `(state, texts)`.
    fits: What has to be learned of the full model first, which `measure` and `through` find in `texts.fitted`.
    """

    name: str
    reads: Literal["state", "step", "lens", "pair"]
    measure: Callable[..., Float[Array, "*numbers B"]]
    of_texts: Callable[[np.ndarray], np.ndarray] = lambda values: values
    weights: Callable[[Sample], np.ndarray] = every_text
    reduction: Reduction = MEAN
    listed: Callable[[np.ndarray], Sequence[Any] | np.ndarray] = np.asarray
    through: Callable[[Float[Array, "B S D"], Texts], Float[Array, "B S D"]] = lambda x, texts: x
    fits: tuple[Fit, ...] = ()


def without_padding(x: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, "B S D"]:
    """Zero at padding."""
    return jnp.where((jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None], x, 0)


def direction(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Unit vectors in float32; zeros stay zeros."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm == 0, 1, norm)

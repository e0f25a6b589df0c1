"""What a probe is: numbers of each text, read off the hidden states along a plan, added up over texts, and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Texts(NamedTuple):
    """The texts whose states a probe reads, right-padded rows, and the merged `nnx` model that reads them."""

    model: Any
    tokens: Int[Array, "B S"]
    lengths: Int[Array, " B"]


@dataclass(frozen=True)
class Probe:
    """One analysis: `name` is its name in the results store.

    reads: What `measure` is given on the device: "state" `(state, texts)`, "step" `(before, after, texts)`, or "pair"
        `(state, other, lengths)`, of each state with every one before it on its path and with itself. States are
        [B, S, D], zero where there is padding.
    measure: A traced function that gives a number of each text in float32, [B].
    add: On the host, in float64, what they add up to over some texts: of [states, texts], [steps, texts] or, the same
        for both orders, [states, states, texts].
    per: What a plan's numbers are the mean over: all texts, or all their tokens.
    listed: What of them is stored, as nested sequences.
    """

    name: str
    reads: Literal["state", "step", "pair"]
    measure: Callable[..., Float[Array, " B"]]
    add: Callable[[np.ndarray], np.ndarray] = lambda values: values.sum(axis=-1)
    per: Literal["text", "token"] = "text"
    listed: Callable[[np.ndarray], Sequence[Any] | np.ndarray] = np.asarray


def without_padding(x: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, "B S D"]:
    """Zero at padding."""
    return jnp.where((jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None], x, 0)


def direction(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Unit vectors in float32; zeros stay zeros."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm == 0, 1, norm)

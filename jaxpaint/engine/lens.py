"""The logit lens: what a model would say of a state, were it the last one (nostalgebraist, 2020).

Through the model's final norm, whose statistics are those of the state itself, and its head. At the last state these
are the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit

# Logits in float32 in memory at once.
LOGITS_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Lens:
    """The k most likely tokens by each state, at each position, and their log-probabilities in nats."""

    tokens: Int[np.ndarray, "states B S k"]
    logprobs: Float[np.ndarray, "states B S k"]


def most_likely(graphdef: Any, state: Any, x: Float[Array, "B S D"], k: int, vocabulary: int) -> tuple[Any, Any]:
    """`(tokens, logprobs)` [B, S, k] of one state."""
    return _in_parts(lambda part: _most_likely(graphdef, state, part, k), x, vocabulary)


def logprobs_of(
    graphdef: Any, state: Any, x: Float[Array, "B S D"], token: int, vocabulary: int
) -> Float[np.ndarray, "B S"]:
    """The log-probability in nats of one token by one state, at each position."""
    return _in_parts(lambda part: (_logprobs_of(graphdef, state, part, token),), x, vocabulary)[0]


def _in_parts(run: Callable[[Array], tuple[Array, ...]], x: Float[Array, "B S D"], vocabulary: int) -> Any:
    """`run` of parts of the positions, all of one size."""
    flat = x.reshape(-1, x.shape[-1])
    size = min(len(flat), max(1, LOGITS_BYTES // (4 * vocabulary)))
    flat = jnp.pad(flat, ((0, -len(flat) % size), (0, 0)))
    parts = [jax.device_get(run(flat[start : start + size])) for start in range(0, len(flat), size)]
    count = x.shape[0] * x.shape[1]
    return tuple(
        np.concatenate(each)[:count].reshape(*x.shape[:2], *each[0].shape[1:]) for each in zip(*parts, strict=True)
    )


@jit("graphdef", "k")
def _most_likely(graphdef, state, x, k):
    logprobs, tokens = jax.lax.top_k(jax.nn.log_softmax(nnx.merge(graphdef, state).logits(x)), k)
    return tokens, logprobs


@jit("graphdef")
def _logprobs_of(graphdef, state, x, token):
    return jax.nn.log_softmax(nnx.merge(graphdef, state).logits(x))[:, token]

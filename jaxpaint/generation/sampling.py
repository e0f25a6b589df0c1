"""Choosing the next token: greedy, or drawn with temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpaint.base.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. A temperature of 0 is greedy: the rest then plays no part.

    In the order of transformers' generate: logits over `temperature`, the `top_k` best (0: all), of these the fewest
    whose probabilities reach `top_p`. A prompt's draws depend on `seed` and on its place among the prompts, not on
    what runs beside it.

    Raises:
        UserError: a value that cannot be.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(value := getattr(self, field.name), Real):
                raise UserError(f"{field.name} is {value!r}; expected a number")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; expected 0 (greedy) or more")
        if self.top_k < 0:
            raise UserError(f"top-k is {self.top_k}; expected a number of tokens, or 0 for all of them")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; expected a probability above 0 and up to 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}; expected a number from 0 to 2^32 - 1")

    @property
    def data(self) -> tuple[float, int, float, int]:
        """What `next_tokens` takes."""
        return self.temperature, self.top_k, self.top_p, self.seed


GREEDY = Sampling()


def next_tokens(
    logits: Float[Array, "B V"],
    prompts: Int[Array, " B"],
    positions: Int[Array, " B"],
    data: tuple[Array, Array, Array, Array],
) -> Int[Array, " B"]:
    """A token for each row, drawn for the prompt of that number at that position. `data` is `Sampling.data`."""
    temperature, top_k, top_p, seed = data

    def drawn() -> Int[Array, " B"]:
        scaled, tokens = jax.lax.sort_key_val(-logits / temperature, _ids(logits), dimension=-1)
        scaled = -scaled
        rank = jnp.arange(logits.shape[-1])
        kept = (rank < top_k) | (top_k <= 0)
        probabilities = jax.nn.softmax(jnp.where(kept, scaled, -jnp.inf), axis=-1)
        # Those before which less than top_p has been gathered: the first one always stays.
        kept &= (jnp.cumsum(probabilities, axis=-1) - probabilities < top_p) | (top_p >= 1)
        key = jax.random.key(seed)
        keys = jax.vmap(lambda prompt, position: jax.random.fold_in(jax.random.fold_in(key, prompt), position))(
            prompts, positions
        )
        choice = jax.vmap(jax.random.categorical)(keys, jnp.where(kept, scaled, -jnp.inf))
        return jnp.take_along_axis(tokens, choice[:, None], axis=-1)[:, 0]

    return jax.lax.cond(temperature > 0, drawn, lambda: _first_largest(logits))


def _ids(logits: Float[Array, "B V"]) -> Int[Array, "B V"]:
    return jnp.broadcast_to(jnp.arange(logits.shape[-1], dtype=jnp.int32), logits.shape)


def _first_largest(logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    # `jnp.argmax` reduces pairs, which a CPU does one by one: 0.9 ms where these two take 0.6 (docs/log.md).
    last = logits.shape[-1] - 1
    return jnp.where(logits == logits.max(axis=-1, keepdims=True), _ids(logits), last).min(axis=-1)

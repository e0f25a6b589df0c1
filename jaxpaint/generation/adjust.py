"""A checkpoint's generation settings at work: logits changed before a token is chosen, as transformers' generate does.

Its logits processors in its order. The settings are data: one executable serves all values.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.generation.settings import GenerationSettings


class Adjustments(NamedTuple):
    """`GenerationSettings` as arrays. Of the vocabulary: what is never written, not first, not early, or forced last.

    `forced_first` is -1 where nothing is.
    """

    penalty: Float[np.ndarray, ""]
    never: Bool[np.ndarray, " V"]
    not_first: Bool[np.ndarray, " V"]
    not_early: Bool[np.ndarray, " V"]
    min_length: Int[np.ndarray, ""]
    min_new_tokens: Int[np.ndarray, ""]
    forced_first: Int[np.ndarray, ""]
    forced_last: Bool[np.ndarray, " V"]


def adjustments(settings: GenerationSettings, vocabulary: int) -> Adjustments | None:
    """None where logits stay as they are. Raises UserError for a forced token that the vocabulary lacks."""
    if not settings.changes_logits:
        return None
    first = settings.forced_bos_token_id
    for name, forced in (
        ("forced_bos_token_id", [] if first is None else [first]),
        ("forced_eos_token_id", settings.forced_eos_token_id),
    ):
        if beyond := [token for token in forced if token >= vocabulary]:
            raise UserError(f"the checkpoint's {name} is {beyond[0]}, but the vocabulary has {vocabulary} entries")

    def among(tokens: tuple[int, ...]) -> Bool[np.ndarray, " V"]:
        return np.isin(np.arange(vocabulary), tokens)

    new = settings.min_new_tokens
    return Adjustments(
        np.array(settings.repetition_penalty, np.float32),
        among(settings.suppress_tokens),
        among(settings.begin_suppress_tokens),
        among(settings.eos_token_id),
        # `min_new_tokens` goes before `min_length`, as there.
        np.array(settings.min_length if new is None else 0, np.int32),
        np.array(new or 0, np.int32),
        np.array(-1 if first is None else first, np.int32),
        among(settings.forced_eos_token_id),
    )


def adjusted(
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"],
    length: Int[Array, " B"],
    prompt_length: Int[Array, " B"],
    left: Int[Array, " B"],
    how: Adjustments,
) -> Float[Array, "B V"]:
    """The logits of rows whose texts hold `length` tokens, those `seen` (the prompt's, too), with `left` to go."""
    length, prompt_length, left = (each[:, None] for each in (length, prompt_length, left))
    vocabulary = jnp.arange(logits.shape[-1])
    logits = jnp.where(seen, jnp.where(logits < 0, logits * how.penalty, logits / how.penalty), logits)
    early = (length < how.min_length) | (length - prompt_length < how.min_new_tokens)
    logits = jnp.where(early & how.not_early, -jnp.inf, logits)
    forces_first = how.forced_first >= 0
    logits = jnp.where(forces_first & (length == 1), _only(vocabulary == how.forced_first), logits)
    logits = jnp.where(how.forced_last.any() & (left == 1), _only(how.forced_last), logits)
    logits = jnp.where(how.never, -jnp.inf, logits)
    begin = prompt_length + (forces_first & (prompt_length == 1))
    return jnp.where((length == begin) & how.not_first, -jnp.inf, logits)


def seen_tokens(texts: list[tuple[int, ...]], rows: int, vocabulary: int) -> Bool[np.ndarray, "rows V"]:
    """Which tokens the first rows' texts hold."""
    found = np.zeros((rows, vocabulary), bool)
    for row, tokens in enumerate(texts):
        found[row, list(tokens)] = True
    return found


def _only(tokens: Array | np.ndarray) -> Array:
    return jnp.where(tokens, 0.0, -jnp.inf)

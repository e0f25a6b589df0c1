"""Texts of a bigram model in which some tokens, the triggers, are followed by one token the whole text through.

Everything that tells one distribution from another is data (`Source`), so arms that learn from different ones train in
one executable. Section 3 of the paper, and the authors' public code where the paper leaves something open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.birth.counts import Counts, shipped

Triggers: TypeAlias = Literal["fixed", "random"]
Outputs: TypeAlias = Literal["uniform", "bigram"]
TRAINING_SHARE = 0.75  # of the token ids, outputs of the training texts where the test's are held out
NO_TOKEN = -1


@dataclass(frozen=True)
class DataSettings:
    """How texts are drawn.

    Attributes:
        triggers: `fixed`, the most frequent tokens after the first `skip`; or `random`, drawn for each text.
        count: how many triggers a text has.
        skip: frequent tokens passed over: a large number makes rare triggers.
        outputs: what may follow a trigger: any token alike, or as the bigrams have it.
        without_itself: whether a trigger's output is never the trigger.
        held_out: whether training texts have outputs of the first 75 % of the token ids, test texts of the last 25 %.
        redrawn: whether what follows a trigger is drawn anew each time: nothing to be learned in context, a control.
    """

    triggers: Triggers = "fixed"
    count: int = 5
    skip: int = 0
    outputs: Outputs = "uniform"
    without_itself: bool = False
    held_out: bool = False
    redrawn: bool = False

    def fixed_triggers(self, counts: Counts) -> np.ndarray:
        """The ids [count] of triggers that all texts share; none of random ones. Raises UserError for too many."""
        vocabulary = len(counts.tokens)
        if not 1 <= self.count <= vocabulary - self.skip or self.skip < 0:
            raise UserError(
                f"{self.count} triggers after the {self.skip} most frequent tokens; there are {vocabulary} tokens"
            )
        by_frequency = np.argsort(-np.array(counts.unigrams), kind="stable")
        return by_frequency[self.skip : self.skip + self.count] if self.triggers == "fixed" else np.zeros(0, int)


class Source(NamedTuple):
    """A distribution of texts over N tokens with at most K triggers.

    `first` [N], `following` [N, N] and `outputs` [N, N] are cumulative probabilities, rows of the token before;
    `triggers` [K] are ids, `NO_TOKEN` where there are fewer; `random` and `redrawn` as in `DataSettings`.
    """

    first: Float[Array, " N"]
    following: Float[Array, "N N"]
    outputs: Float[Array, "N N"]
    triggers: Int[Array, " K"]
    trigger_count: Int[Array, ""]
    random: Bool[Array, ""]
    redrawn: Bool[Array, ""]


class Batch(NamedTuple):
    """Texts: input tokens and the tokens that follow them [B, T], how often (`counters` [B, T]) a position's token, if
    it is a trigger, has occurred so far, and each text's triggers and their outputs [B, K].

    A counter of 0 makes a global prediction, 1 one that cannot be known, 2 or more one in context.
    """

    tokens: Int[Array, "B T"]
    labels: Int[Array, "B T"]
    counters: Int[Array, "B T"]
    triggers: Int[Array, "B K"]
    outputs: Int[Array, "B K"]


def bigrams_of(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """`(unigrams [N], bigrams [N, N])` as probabilities; rows without counts are uniform."""
    unigrams, bigrams = np.array(counts.unigrams, float), np.array(counts.bigrams, float)
    totals = bigrams.sum(axis=1, keepdims=True)
    rows = np.where(totals > 0, bigrams / np.maximum(totals, 1), 1 / len(unigrams))
    return unigrams / unigrams.sum(), rows


def source_of(settings: DataSettings, *, for_test: bool = False, room: int | None = None) -> Source:
    """The distribution that settings describe, with room for so many triggers (as many as there are unless given)."""
    counts = shipped()
    unigrams, bigrams = bigrams_of(counts)
    size = len(unigrams)
    outputs = bigrams.copy() if settings.outputs == "bigram" else np.full((size, size), 1 / size)
    if settings.without_itself:
        np.fill_diagonal(outputs, 0)
    if settings.held_out:
        trained = np.arange(size) < round(TRAINING_SHARE * size)
        allowed = np.where(trained == (not for_test), 1.0, 1e-9)  # a row with nothing allowed stays a distribution
        outputs *= allowed
    fixed = settings.fixed_triggers(counts)
    triggers = np.full(settings.count if room is None else room, NO_TOKEN)
    triggers[: len(fixed)] = fixed
    return Source(
        first=_cumulative(unigrams),
        following=_cumulative(bigrams),
        outputs=_cumulative(outputs),
        triggers=jnp.array(triggers, jnp.int32),
        trigger_count=jnp.array(settings.count, jnp.int32),
        random=jnp.array(settings.triggers == "random"),
        redrawn=jnp.array(settings.redrawn),
    )


def _cumulative(rows: np.ndarray) -> Array:
    """Ends of the intervals in which a number from 0 to 1 means each token; the last with a chance ends beyond 1."""
    ends = np.cumsum(rows / rows.sum(axis=-1, keepdims=True), axis=-1)
    last = rows.shape[-1] - 1 - np.argmax(rows[..., ::-1] > 0, axis=-1)
    ends[np.arange(rows.shape[-1]) >= last[..., None]] = 2.0
    return jnp.array(ends, jnp.float32)


def sample(source: Source, key: Array, rows: int, length: int) -> Batch:
    """A batch of `rows` texts of `length` tokens and a label each; for `jax.jit`, where rows and length are static."""
    vocabulary = len(source.first)
    # One draw, because each compiles for a quarter of a second; its parts do not depend on the room for triggers.
    drawn = jax.random.uniform(key, (2 * vocabulary + 1 + 2 * length, rows))
    of_triggers, of_outputs, of_first, of_tokens, of_redrawn = jnp.split(
        drawn, np.cumsum([vocabulary, vocabulary, 1, length])
    )
    triggers = _triggers(source, of_triggers.T)
    outputs = _drawn(source.outputs[triggers], of_outputs.T[:, : len(source.triggers)])
    first = _drawn(jnp.broadcast_to(source.first, (rows, vocabulary)), of_first[0])

    def step(token: Array, chances: tuple[Array, Array]) -> tuple[Array, Array]:
        is_trigger = token[:, None] == triggers
        kept = jnp.where(is_trigger, outputs, 0).sum(axis=1)
        output = jnp.where(source.redrawn, _drawn(source.outputs[token], chances[1]), kept)
        following = jnp.where(is_trigger.any(axis=1), output, _drawn(source.following[token], chances[0]))
        return following, following

    rest = jax.lax.scan(step, first, (of_tokens, of_redrawn))[1].T
    tokens = jnp.concatenate([first[:, None], rest[:, :-1]], axis=1)
    is_trigger = tokens[:, :, None] == triggers[:, None, :]
    counters = jnp.where(is_trigger, jnp.cumsum(is_trigger, axis=1), 0).sum(axis=2)
    return Batch(tokens, rest, counters, triggers, outputs)


def _triggers(source: Source, drawn: Float[Array, "B N"]) -> Int[Array, "B K"]:
    """Each text's, the fixed ones or as many drawn without replacement as the unigrams have it."""
    chances = jnp.diff(jnp.minimum(source.first, 1), prepend=0.0)
    room = len(source.triggers)
    drawn = jax.lax.top_k(jnp.log(chances) - jnp.log(-jnp.log(jnp.maximum(drawn, 1e-30))), room)[1]
    drawn = jnp.where(jnp.arange(room) < source.trigger_count, drawn, NO_TOKEN)
    return jnp.where(source.random, drawn, source.triggers)


def _drawn(cumulative: Float[Array, "*B N"], chance: Float[Array, "*B"]) -> Int[Array, "*B"]:
    return (cumulative <= chance[..., None]).sum(axis=-1)

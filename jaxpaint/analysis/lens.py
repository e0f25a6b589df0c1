"""The logit lens (nostalgebraist, 2020): a state read as if it were the last, through the final norm and the head.

The norm takes the statistics of the state itself. Logits are computed for some positions and a block of the vocabulary
at a time, as scores are (`jaxpaint.engine.head`), and only what is read of them is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpaint.analysis.probes import Probe, Sample, Texts, every_token
from jaxpaint.engine.head import head_chunk, vocabulary_block


class Reading(NamedTuple):
    """What the lens gives at every position, NaN where logits are not finite; natural logarithms.

    `logprob` and `rank` (0: the most likely) are of a target: the actual next token, at a text's last token the one
    that the full model finds most likely. `entropy` is the distribution's; `top` the most likely token.
    """

    logprob: Float[Array, "B S"]
    rank: Float[Array, "B S"]
    entropy: Float[Array, "B S"]
    top: Int[Array, "B S"]


def read(model: Any, x: Float[Array, "B S D"], targets: Int[Array, "B S"]) -> Reading:
    """The lens on states, by a merged `nnx` decoder with a head."""
    vocab_size, positions = model.config.vocab_size, targets.size
    chunk, block = head_chunk(vocab_size, positions), vocabulary_block(vocab_size)
    count = -(-positions // chunk)

    def in_chunks(rows: Array) -> Array:
        flat = rows.reshape(positions, *rows.shape[2:])
        padding = [(0, count * chunk - positions), *[(0, 0)] * (flat.ndim - 1)]
        return jnp.pad(flat, padding).reshape(count, chunk, *flat.shape[1:])

    def of_chunk(chunked: tuple[Array, Array]) -> Reading:
        states, wanted = chunked
        return _over_vocabulary(model, model.norm(states), wanted, block)

    found = jax.lax.map(of_chunk, (in_chunks(x), in_chunks(targets)))
    return Reading(*(each.reshape(-1)[:positions].reshape(targets.shape) for each in found))


def _over_vocabulary(model: Any, normed: Float[Array, "m D"], targets: Int[Array, " m"], block: int) -> Reading:
    """The lens at some positions, block by block of the vocabulary."""
    vocab_size, positions = model.config.vocab_size, len(targets)
    # Each position's own token, so that its rank is known in the one pass that the rest takes.
    of_target = jax.vmap(lambda x, token: model.vocabulary_logits(x[None], token, 1)[0, 0])(normed, targets)

    def step(i: Any, found: tuple[Array, ...]) -> tuple[Array, ...]:
        largest, top, total, weighted, above = found
        # The last block may reach back over tokens that the one before it has done.
        first = jnp.minimum(i * block, vocab_size - block)
        logits = model.vocabulary_logits(normed, first, block)
        tokens = first + jnp.arange(block)[:, None]
        new = tokens >= i * block
        above += (new & (logits > of_target) & (tokens != targets)).sum(axis=0)
        logits = jnp.where(new, logits, -jnp.inf)
        here = logits.max(axis=0)
        top = jnp.where(here > largest, first + logits.argmax(axis=0), top)
        new_largest = jnp.maximum(largest, here)
        # `weighted` is the sum of exp(l - largest) (l - largest), which changes with the largest.
        scale, moved = jnp.exp(largest - new_largest), largest - new_largest
        weighted = scale * (weighted + moved * total)
        below = jnp.where(new, logits - new_largest, 0)
        exponentials = jnp.where(new, jnp.exp(below), 0)
        total = scale * total + exponentials.sum(axis=0)
        return new_largest, top, total, weighted + (exponentials * below).sum(axis=0), above

    zeros, least = jnp.zeros(positions), jnp.full(positions, jnp.finfo(jnp.float32).min)
    start = (least, jnp.zeros(positions, jnp.int32), zeros, zeros, zeros)
    largest, top, total, weighted, above = jax.lax.fori_loop(0, -(-vocab_size // block), step, start)
    normaliser = largest + jnp.log(total)
    logprob = of_target - normaliser
    finite = jnp.isfinite(logprob)
    rank, entropy = (jnp.where(finite, each, jnp.nan) for each in (above, jnp.log(total) - weighted / total))
    return Reading(logprob, rank, entropy, top)


def targets(texts: Texts) -> Int[Array, "B S"]:
    """The next tokens, and at the last one the full model's answer."""
    assert texts.answers is not None
    following = jnp.roll(texts.tokens, -1, axis=1)
    return jnp.where(_places(texts) == texts.lengths[:, None] - 1, texts.answers, following)


def _places(texts: Texts) -> Int[Array, "1 S"]:
    return jnp.arange(texts.tokens.shape[1])[None]


def next_and_last(reading: Reading, texts: Texts) -> Float[Array, "4 B"]:
    """Sums over the tokens before the last one, then the last one's: of log-probabilities and ranks."""
    last = texts.lengths[:, None] - 1
    found = []
    for each in (reading.logprob, reading.rank):
        before = jnp.where(_places(texts) < last, each, 0).sum(axis=1)
        found.append((before, jnp.take_along_axis(each, last, axis=1)[:, 0]))
    (logprob, last_logprob), (rank, last_rank) = found
    return jnp.stack([logprob, rank, last_logprob, last_rank])


def next_or_last(sample: Sample) -> Float[np.ndarray, "4 texts"]:
    following, one = sample.lengths - 1.0, np.ones(len(sample.lengths))
    return np.stack([following, following, one, one])


def _entropy(reading: Reading, texts: Texts) -> Float[Array, " B"]:
    return _over_tokens(reading.entropy, texts)


def _agreement(reading: Reading, texts: Texts) -> Float[Array, " B"]:
    agree = jnp.where(jnp.isfinite(reading.entropy), reading.top == texts.answers, jnp.nan)
    return _over_tokens(agree, texts)


def _over_tokens(values: Float[Array, "B S"], texts: Texts) -> Float[Array, " B"]:
    return jnp.where(_places(texts) < texts.lengths[:, None], values, 0).sum(axis=1)


# Of each state [4]: mean log-probability and rank of the actual next token, over all tokens that have one; and of the
# full model's most likely token after a text, at its last token.
LOGIT_LENS = Probe("logit_lens", "lens", next_and_last, weights=next_or_last)
# Of each state: the mean entropy of the lens' distribution over all tokens, in nats.
ENTROPY = Probe("entropy", "lens", _entropy, weights=every_token)
# Of each state: the share of tokens at which the lens finds the same token most likely as the full model does.
AGREEMENT = Probe("agreement", "lens", _agreement, weights=every_token)

"""Log-probabilities of every token of texts, and the most likely tokens at each place, under many plans.

Packed and walked as `jaxpaint.engine.score` does it, so that the same tokens get the same numbers; each text is one
request whose every position is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.hosts import on_host
from jaxpaint.engine.grouping import row_length
from jaxpaint.engine.head import target_logprobs
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import SCORED_MULTIPLE, TARGETS_PER_POSITION, Batch, Request
from jaxpaint.engine.score import pack_for
from jaxpaint.engine.walk import endings, shards, start_of_stream
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True)
class TokenScores:
    """Of a text of T tokens: natural-log probabilities of those after the first, and whether each is the most likely.

    `best` are the most likely tokens after each token, the last one's too, best first, and `best_logprobs` theirs. All
    are NaN where logits were not finite.
    """

    logprobs: Float[np.ndarray, " T-1"]
    is_greedy: Bool[np.ndarray, " T-1"]
    best: Int[np.ndarray, "T best"]
    best_logprobs: Float[np.ndarray, "T best"]


def token_scores(
    model: Model, texts: Sequence[Sequence[int]], plans: Sequence[Plan], *, best: int = 1
) -> list[list[TokenScores]]:
    """Scores of every text under every plan: [plans][texts]. `best` is how many of the most likely tokens are wanted.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: an encoder.
    """
    # Nothing is known to follow the last token: token 0 stands there, and its log-probability is dropped.
    requests = [Request(tuple(text), (*text[1:], 0)) for text in texts]
    found: dict[tuple[int, int], TokenScores] = {}
    for packed in pack_for(model, requests):
        batch = in_few_shapes(packed, shards(model))
        for ends, state, _ in endings(model, start_of_stream(model, batch), plans):
            targets = target_logprobs(model, state, batch)
            most_likely = _most_likely(model.graphdef, model.state, best, state, batch.scored)
            del state
            for text, scores in _by_text(batch, *map(on_host, (*targets, *most_likely))):
                found.update({(plan, text): scores for plan in ends})
    return [[found[plan, text] for text in range(len(texts))] for plan in range(len(plans))]


def in_few_shapes(batch: Batch, rows_multiple: int = 1) -> Batch:
    """The batch with rows of padding, up to a third of them, and a reach and room for scores rounded up.

    Batches of whoever happens to ask at the same time are of all sizes, and compiling for each takes longer than what
    it saves. Rows at the end change nothing before them; a larger reach is masked (`jaxpaint.models.attention`).
    """
    height, length = batch.tokens.shape
    rows = row_length(height, smallest=rows_multiple) - height
    itself = np.broadcast_to(np.arange(1, length + 1, dtype=np.int32), (rows, length))
    scored = row_length(batch.scored.size, smallest=SCORED_MULTIPLE) - batch.scored.size
    return replace(
        batch,
        tokens=np.pad(batch.tokens, ((0, rows), (0, 0))),
        positions=np.pad(batch.positions, ((0, rows), (0, 0))),
        visible_until=np.concatenate([batch.visible_until, itself]),
        lookback=batch.lookback and min((1 << batch.lookback.bit_length()) - 1, height + rows - 1),
        scored=np.pad(batch.scored, (0, scored)),
        targets=np.pad(batch.targets, ((0, scored), (0, 0))),
    )


def _by_text(batch: Batch, logprobs, is_greedy, best, best_logprobs):
    for text in batch.requests:
        slots = batch.slots[batch.request_ids == text]  # in the text's order
        where = slots // TARGETS_PER_POSITION
        own, greedy = logprobs.reshape(-1)[slots], is_greedy.reshape(-1)[slots]
        finite = np.isfinite(own) & np.isfinite(best_logprobs[where]).all(axis=-1)
        yield (
            int(text),
            TokenScores(
                np.where(finite, own, np.nan)[:-1],
                greedy[:-1],
                best[where],
                np.where(finite[:, None], best_logprobs[where], np.nan),
            ),
        )


@jit("graphdef", "count")
def _most_likely(graphdef, state, count, hidden, scored):
    """The `count` best tokens at the scored positions, [M, count], and their log-probabilities."""
    model = nnx.merge(graphdef, state)
    vocabulary = model.config.vocab_size
    hidden = hidden.reshape(-1, hidden.shape[-1])

    def at(position):
        logits = model.vocabulary_logits(model.norm(hidden[position][None]), 0, vocabulary)[:, 0]
        values, tokens = jax.lax.top_k(logits, count)
        return tokens, values - jax.nn.logsumexp(logits)

    # As many positions at once as have room for their logits.
    return jax.lax.map(at, scored, batch_size=max(1, min(scored.size, budgets().logits_bytes // (4 * vocabulary))))

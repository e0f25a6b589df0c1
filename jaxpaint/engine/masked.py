"""A masked language model under many plans, without fine-tuning: each token of a text predicted from all others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import on_host
from jaxpaint.engine.given import GivenTexts, token_ids
from jaxpaint.engine.model import Model
from jaxpaint.engine.rows import Inputs, checked_texts, right_padded
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import endings, shards, start_of_rows
from jaxpaint.models.family import Config
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True, eq=False)
class MaskedScores:
    """What a plan makes of each text: NaN where hidden states were not finite.

    pseudo_loglikelihoods: sum over a text's tokens of the log-probability of each where it alone is masked (Salazar
        et al., "Masked Language Model Scoring", arXiv 1910.14659).
    found: how many of its tokens are the most likely ones at their masked places.
    masked: how many tokens were masked, one at a time.
    """

    pseudo_loglikelihoods: Float[np.ndarray, " texts"]
    found: Int[np.ndarray, " texts"]
    masked: Int[np.ndarray, " texts"]

    @property
    def accuracy(self) -> float:
        """The share of masked tokens found, over all texts."""
        return float(self.found.sum() / self.masked.sum())


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """What `score_masked` takes of texts: their token ids with special tokens around them."""

    tokens: tuple[tuple[int, ...], ...]
    mask_token: int
    special_tokens: frozenset[int]

    @property
    def masked(self) -> int:
        """How many tokens there are to mask."""
        return sum(token not in self.special_tokens for text in self.tokens for token in text)


def encode_texts(model: Model | Source, texts: Sequence[str]) -> EncodedTexts:
    """The texts as the model's tokenizer encodes them.

    Raises:
        UserError: a model without a masked-LM head, a tokenizer without a mask token, or a text with one in it.
    """
    require_masked_head(model.config)
    tokenizer = model.tokenizer
    if tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of this {model.config.model_type} checkpoint has no mask token")
    tokens = tuple(tuple(tokenizer.encode(text, verbose=False)) for text in texts)
    for number, text in enumerate(tokens, 1):
        if tokenizer.mask_token_id in text:
            raise UserError(
                f"text {number} of {len(texts)} holds {tokenizer.mask_token} itself; give texts without masks"
            )
    around = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    return EncodedTexts(tokens, tokenizer.mask_token_id, frozenset(around))


def score_masked(
    model: Model,
    texts: GivenTexts,
    plans: Plan | str | Sequence[Plan | str],
    *,
    mask_token: int,
    special_tokens: Collection[int] = (),
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[MaskedScores, ...]:
    """Scores texts, given as such or as token ids, under every plan, in the order of `plans`.

    `special_tokens` ([CLS], [SEP]) are never masked. `progress` is called with the number of tokens masked and done
    under all plans.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: a model without a masked-LM head; no text, an empty one, one of special tokens alone, tokens outside
            the vocabulary, or more tokens than the model has positions.
    """
    require_masked_head(model.config)
    asked, checked = model.checked_plans(plans), checked_texts(token_ids(model, texts), model.config)
    places = [
        (number, place)
        for number, text in enumerate(checked)
        for place in np.flatnonzero(~np.isin(text, list(special_tokens)))
    ]
    masked = np.bincount([number for number, _ in places], minlength=len(checked))
    if not masked.all():
        raise UserError(
            f"text {masked.argmin() + 1} of {len(checked)} holds special tokens alone; there is nothing to predict"
        )
    rows = [_with_mask(checked[number], place, mask_token) for number, place in places]
    sums = np.zeros((len(asked), len(checked)))
    found = np.zeros((len(asked), len(checked)), int)
    budget = batch_tokens or budgets().masked_tokens * shards(model)
    for batch in right_padded(rows, budget, shards(model)):
        of_text, where = np.array([places[row] for row in batch.texts]).T
        padded = np.zeros((2, len(batch.tokens)), np.int32)
        padded[0, : len(where)] = where
        padded[1, : len(where)] = [checked[number][place] for number, place in zip(of_text, where, strict=True)]
        inputs = Inputs(batch.tokens, batch.lengths, None)
        for ends, state, _ in endings(model, start_of_rows(model, inputs), asked):
            logprobs, best = map(on_host, _at(model.graphdef, model.state, state, *padded))
            del state
            for plan in ends:
                np.add.at(sums[plan], of_text, np.where(np.isfinite(logprobs), logprobs, np.nan)[: len(where)])
                np.add.at(found[plan], of_text, best[: len(where)])
        if progress:
            progress(len(where))
    return tuple(MaskedScores(sums[plan], found[plan], masked) for plan in range(len(asked)))


def require_masked_head(config: Config) -> None:
    """Raises UserError for a model without a masked-LM head."""
    if not config.capabilities.masked_lm_head:
        raise UserError(f"this {config.model_type} checkpoint has no masked-LM head to predict tokens with")


def _with_mask(text: Int[np.ndarray, " tokens"], place: np.integer, mask_token: int) -> Int[np.ndarray, " tokens"]:
    row = text.copy()
    row[place] = mask_token
    return row


@jit("graphdef")
def _at(graphdef, state, hidden, places, targets):
    """Each row's log-probability of its target at its place, and whether it is the most likely token."""
    model = nnx.merge(graphdef, state)
    logits = model.logits(jnp.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0])
    at_target = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]
    return at_target, logits.argmax(axis=-1) == targets

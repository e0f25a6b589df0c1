"""The tokens a model finds most likely after a text."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import on_host
from jaxpaint.base.words import require_characters
from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.models.family import require_lm_head
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True)
class NextToken:
    """A candidate for the next token, with its logit and its probability over the whole vocabulary."""

    id: int
    text: str
    logit: float
    probability: float


def most_likely_next(model: Model, plan: Plan | str, text: str, count: int = 10) -> list[NextToken]:
    """The `count` most likely tokens after `text`, which the tokenizer encodes with its own special tokens.

    Raises:
        UserError: an empty text, a count below 1, or an encoder.
        ModelOutputError: NaN or infinite logits.
    """
    require_lm_head(model.config, "what comes next")
    require_count(count)
    tokens = encoded(model, text)
    # A power of two, so that texts of many lengths share an executable.
    padded = np.zeros((1, min(1 << (len(tokens) - 1).bit_length(), model.config.max_position_embeddings)), np.int32)
    padded[0, : len(tokens)] = tokens
    logits = on_host(model.logits(padded, plan, np.array([len(tokens)])))[0, len(tokens) - 1]
    if not np.isfinite(logits).all():
        raise ModelOutputError(f"NaN or infinite logits under plan {plan}")
    probabilities = np.asarray(jax.nn.softmax(logits))
    best = np.argsort(-logits, kind="stable")[:count]
    return [NextToken(int(i), model.tokenizer.decode([i]), float(logits[i]), float(probabilities[i])) for i in best]


def require_count(count: int) -> None:
    """Raises UserError for a number of tokens to show that is below 1."""
    if count < 1:
        raise UserError(f"{count} tokens to show; expected 1 or more")


def encoded(model: Model | Source, text: str) -> list[int]:
    """The text's tokens. Raises UserError for none, for what is no text, or more than the model's context holds."""
    require_characters(text, "the text")
    tokens, positions = model.tokenizer.encode(text, verbose=False), model.config.max_position_embeddings
    if not tokens:
        raise UserError("the text is empty; give at least one token to continue")
    if len(tokens) > positions:
        raise UserError(f"the text has {len(tokens)} tokens; the model's context holds {positions}")
    return tokens

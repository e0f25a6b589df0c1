"""Calibration texts in rows to train on: held-out ones apart, joined and cut to rows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from jaxtyping import Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.engine.rows import Inputs, checked_texts
from jaxpaint.engine.source import Source
from jaxpaint.tasks.encoding import Bos, Encoding
from jaxpaint.training.batches import Batch, Batches, shuffled

LEAST = 4  # texts on either side


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to train on and held-out ones, of `train_texts` and `held_texts` texts. No text is in both."""

    train: Inputs
    held: Inputs
    train_texts: int
    held_texts: int


def tokens_of(model: Model | Source, bos: Bos, texts: Sequence[str]) -> list[list[int]]:
    """Each text as it is scored, followed by the token that ends a sequence where the tokenizer has one.

    Raises UserError for a model without a tokenizer, or one that lacks the BOS token asked for.
    """
    encoding, end = Encoding.of(model, bos), model.tokenizer.eos_token_id
    return [[*encoding.tokens(text), *([] if end is None else [end])] for text in texts]


def dealt(model: Model | Source, texts: Sequence[Sequence[int]], length: int, held_out: float, seed: int) -> Rows:
    """Texts in an order by the seed: the first `held_out` of them in rows of their own, the others to train on.

    A side's texts are joined, and cut to rows of `length` tokens: texts may begin within a row, or go on in the next.

    Raises:
        UserError: no text, an empty one, token ids outside the vocabulary, fewer than `LEAST` texts on a side, or a
            length that is more than the model's positions.
    """
    if length > model.config.max_position_embeddings:
        raise UserError(f"length is {length}; expected at most the model's {model.config.max_position_embeddings}")
    cut = [text[start : start + length] for text in texts for start in range(0, max(1, len(text)), length)]
    checked_texts(cut, model.config)
    order = np.random.default_rng(seed).permutation(len(texts))
    held = round(held_out * len(texts))
    if min(held, len(texts) - held) < LEAST:
        raise UserError(
            f"{len(texts)} calibration texts leave {len(texts) - held} to train on and {held} held out; each needs "
            f"{LEAST}: give more texts, or change --held-out"
        )
    train, apart = ([texts[number] for number in part] for part in (order[held:], order[:held]))
    return Rows(_packed(train, length), _packed(apart, length), len(train), len(apart))


def drawn(
    rows: int, batch_size: int, steps: int, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Float[np.ndarray, "steps batch"]]:
    """Which rows each step is of, in as many orders by the seed as it takes; weights of 0 fill up a batch."""
    epochs = -(-steps // -(-rows // batch_size))
    order, weights = shuffled(rows, batch_size, epochs, seed)
    return order[:steps], weights[:steps]


def distilled_batches(
    rows: Inputs,
    teacher: Float[np.ndarray, "rows S D"],
    order: Int[np.ndarray, "steps batch"],
    weights: Float[np.ndarray, "steps batch"],
    part_rows: int,
) -> Batches:
    """Rows whose targets are the teacher's states; every token of a batch counts alike."""

    def make(part: np.ndarray, whole: np.ndarray, height: int) -> Batch:
        filled = np.append(part, np.repeat(part[-1:], height - len(part)))
        inputs = Inputs(rows.tokens[filled], rows.lengths[filled], None)
        is_token = np.arange(rows.tokens.shape[1]) < inputs.lengths[:, None]
        is_token[len(part) :] = False
        weight = np.where(is_token, 1 / rows.lengths[whole].sum(), 0).astype(np.float32)
        return Batch(inputs, None, teacher[filled], weight)

    return Batches(make, rows.lengths, order, weights, part_rows)


def _packed(texts: Sequence[Sequence[int]], length: int) -> Inputs:
    stream = np.fromiter(chain.from_iterable(texts), np.int32)
    tokens = np.zeros((-(-len(stream) // length), length), np.int32)
    tokens.reshape(-1)[: len(stream)] = stream
    lengths = np.fromiter(repeat(length, len(tokens)), np.int32)
    lengths[-1] = len(stream) - length * (len(tokens) - 1)
    return Inputs(tokens, lengths, None)

"""What a classifier reads of examples: the pooled output of an encoder under many plans, each distinct work once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import on_host
from jaxpaint.engine.model import Model
from jaxpaint.engine.rows import Inputs, TextRows, right_padded
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import endings, shards, start_of_rows
from jaxpaint.models.family import Config
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.glue import Examples, GlueTask
from jaxpaint.training.padded import LABELLED_STEP, padded

SHORTEST_ROW = 8  # sentences are short: rows of 8, 16, 24, 32, 48, 64, 96, 128


class InRows(Protocol):
    """Examples that a model reads in rows: texts (`Encoded`), or images (`jaxpaint.training.images`)."""

    def __len__(self) -> int: ...
    @property
    def lengths(self) -> Int[np.ndarray, " examples"]: ...
    def rows(self, examples: np.ndarray, rows: int) -> Inputs:
        """Some examples in the first of so many rows."""

    def batches(self, budget: int, shards: int, shortest: int) -> Iterator[tuple[TextRows, Inputs]]:
        """All examples, in rows of at most `budget` positions at a time."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Examples as token ids with their token types, one array each."""

    tokens: tuple[Int[np.ndarray, " tokens"], ...]
    token_types: tuple[Int[np.ndarray, " tokens"], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        return np.array([len(text) for text in self.tokens])

    def rows(self, examples: np.ndarray, rows: int) -> Inputs:
        """Some examples in the first of so many rows."""
        tokens, lengths = padded([self.tokens[example] for example in examples], rows, LABELLED_STEP)
        token_types, _ = padded([self.token_types[example] for example in examples], rows, LABELLED_STEP)
        return Inputs(tokens, lengths, token_types)

    def batches(self, budget: int, shards: int, shortest: int) -> Iterator[tuple[TextRows, Inputs]]:
        """All examples as rows, as `jaxpaint.engine.rows.right_padded` batches them."""
        for rows in right_padded(self.tokens, budget, shards, shortest):
            token_types = np.zeros_like(rows.tokens)
            for row, example in enumerate(rows.texts):
                token_types[row, : rows.lengths[row]] = self.token_types[example]
            yield rows, Inputs(rows.tokens, rows.lengths, token_types)


def check_max_length(model: Model | Source, task: GlueTask, max_length: int) -> None:
    """Raises UserError where `max_length` tokens are too few for an example, or more than the model has positions."""
    require_positions(model.config, max_length)
    # A tokenizer that has no room for its special tokens does not cut at all.
    least = model.tokenizer.num_special_tokens_to_add(pair=len(task.columns) > 1) + len(task.columns)
    if max_length < least:
        raise UserError(
            f"max_length is {max_length}; {task.name} takes {least} or more, for its special tokens and text"
        )


def require_positions(config: Config, max_length: int) -> None:
    """Raises UserError where `max_length` tokens are more than the model has positions."""
    positions = config.max_position_embeddings
    if max_length > positions:
        raise UserError(f"max_length is {max_length}, more than the model's {positions} positions")


def encode(model: Model, examples: Examples, max_length: int) -> Encoded:
    """The examples with the tokenizer's special tokens, cut to `max_length` from the longer text of a pair first.

    Raises UserError where the tokenizer gives tokens or token types that the model has no embedding of.
    """
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    found = model.tokenizer(
        *columns, truncation=True, max_length=max_length, return_token_type_ids=True, return_attention_mask=False
    )
    types = model.config.capabilities.token_types
    for name, known, size in (
        ("input_ids", "vocab_size", model.config.vocab_size),
        *([("token_type_ids", "type_vocab_size", types)] if types else []),
    ):
        largest = max(max(values, default=0) for values in found[name])
        if largest >= size:
            raise UserError(
                f"the tokenizer gives {name} of {largest}, and the model's {known} is {size}: "
                "the tokenizer is another model's"
            )
    return Encoded(
        tuple(np.array(ids, np.int32) for ids in found["input_ids"]),
        tuple(np.array(types, np.int32) for types in found["token_type_ids"]),
    )


def pooled_features(
    model: Model,
    encoded: InRows,
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, "plans examples D"]:
    """The pooled output of every example under every plan, in float32.

    `progress` is called with the number of examples done under all plans. Raises PlanError for a layer that the model
    lacks.
    """
    features = np.empty((len(plans), len(encoded), model.config.hidden_size), np.float32)
    budget = batch_tokens or budgets().feature_tokens * shards(model)
    for batch, inputs in encoded.batches(budget, shards(model), SHORTEST_ROW):
        chosen = list(batch.texts)
        for ends, state, _ in endings(model, start_of_rows(model, inputs), plans):
            pooled = on_host(_pooled(model.graphdef, model.state, state, inputs.lengths))[: batch.real_rows]
            del state
            for plan in ends:
                features[plan, chosen] = pooled
        if progress:
            progress(batch.real_rows)
    return features


@jit("graphdef")
def _pooled(graphdef, state, hidden, lengths):
    return nnx.merge(graphdef, state).pooled(hidden, lengths).astype(np.float32)

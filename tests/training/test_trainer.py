"""Training on any loss: a key of its own for every part of every step, and another order in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpaint.training.batches import shuffled
from jaxpaint.training.trainer import train


@dataclass(frozen=True)
class _Descent:
    def transformation(self) -> optax.GradientTransformation:
        return optax.sgd(1.0)


def _drawn(slots: jax.Array, slot: jax.Array, key: jax.Array) -> jax.Array:
    """A loss whose gradient leaves what it draws in the part's slot."""
    return slots[slot] * jax.random.uniform(key)


def test_every_part_of_every_step_draws_with_a_key_of_its_own() -> None:
    parts = [(0,), (1, 2, 3), (4, 5), (6,), (7, 8, 9)]

    def batches(first: int) -> Iterator[tuple[int, ...]]:
        yield from parts[first:]

    loss = jax.tree_util.Partial(_drawn)
    found = [train(loss, jnp.zeros(10), batches, _Descent(), jax.random.key(seed)) for seed in (0, 1)]
    assert len(np.unique(found)) == 20


EXAMPLES, BATCH, EPOCHS = 23, 5, 4


def test_every_epoch_holds_every_example_once_in_another_order() -> None:
    order, weights = shuffled(EXAMPLES, BATCH, EPOCHS, seed=0)
    assert order.shape == weights.shape == (5 * EPOCHS, BATCH)
    epochs = {
        tuple(examples[used > 0].tolist())
        for examples, used in zip(order.reshape(EPOCHS, -1), weights.reshape(EPOCHS, -1), strict=True)
    }
    assert len(epochs) == EPOCHS
    assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(range(EXAMPLES))}


def test_a_step_is_a_mean_of_its_examples() -> None:
    _, weights = shuffled(EXAMPLES, BATCH, EPOCHS, seed=0)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    for row in weights:
        assert len(set(row[row > 0])) == 1


def test_the_seed_decides_the_order() -> None:
    first, again, other = (shuffled(EXAMPLES, BATCH, EPOCHS, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()

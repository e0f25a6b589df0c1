"""Classifiers on frozen features: against torch's AdamW, and all plans and seeds together against each alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jaxpaint.training.heads import initial_head, train_heads
from jaxpaint.training.settings import HEAD

PLANS, EXAMPLES, OTHERS, WIDTH = 3, 37, 11, 8


def _data(num_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features, others = (random.normal(size=(PLANS, size, WIDTH)).astype(np.float32) for size in (EXAMPLES, OTHERS))
    if num_labels == 1:
        return features, (features[0, :, 0] * 2 + 1).astype(np.float32), others
    return features, features[0, :, :num_labels].argmax(axis=1).astype(np.int32), others


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_training_equals_torch(num_labels: int) -> None:
    """Whole batches, so that their order does not matter, without dropout: the rest is arithmetic."""
    features, labels, others = _data(num_labels)
    settings = replace(HEAD, learning_rate=0.05, epochs=20, batch_size=64, dropout=0.0, max_grad_norm=0.5, seeds=(7,))
    ours = train_heads(features, labels, others, num_labels, settings)
    assert ours.shape == (1, PLANS, OTHERS, num_labels)
    for plan in range(PLANS):
        linear = torch.nn.Linear(WIDTH, num_labels)
        first = initial_head(7, WIDTH, num_labels)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.array(first["kernel"]).T))
            linear.bias.zero_()
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.05, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 20)
        for _ in range(20):
            found = linear(torch.tensor(features[plan]))
            target = torch.tensor(labels) if num_labels == 1 else torch.tensor(labels).long()
            loss = (
                torch.nn.functional.mse_loss(found[:, 0], target)
                if num_labels == 1
                else torch.nn.functional.cross_entropy(found, target)
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(linear.parameters(), 0.5)
            optimizer.step()
            schedule.step()
        expected = linear(torch.tensor(others[plan])).detach().numpy()
        np.testing.assert_allclose(ours[0, plan], expected, rtol=1e-4, atol=1e-4)


def test_plans_and_seeds_do_not_touch_each_other() -> None:
    features, labels, others = _data(2)
    settings = replace(HEAD, batch_size=8, dropout=0.1, seeds=(0, 1))
    together = train_heads(features, labels, others, 2, settings)
    for number, seed in enumerate((0, 1)):
        for plan in range(PLANS):
            alone = train_heads(features[[plan]], labels, others[[plan]], 2, replace(settings, seeds=(seed,)))
            np.testing.assert_allclose(together[number, plan], alone[0, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_every_example_is_seen_once_an_epoch() -> None:
    """One example in a batch of its own at the end of an epoch weighs as much as a batch."""
    features, labels, others = _data(2)
    small = replace(HEAD, batch_size=36, epochs=1, dropout=0.0, seeds=(0,))
    without_last = train_heads(features[:, :36], labels[:36], others, 2, small)
    assert np.abs(train_heads(features, labels, others, 2, small) - without_last).max() > 1e-3


def test_dropout_parts_features_that_are_alike() -> None:
    """Without it weights of equal features move equally."""
    features = np.repeat(np.random.default_rng(0).normal(size=(1, EXAMPLES, 1)), WIDTH, axis=2).astype(np.float32)
    labels = (features[0, :, 0] > 0.5).astype(np.int32)
    each = np.eye(WIDTH, dtype=np.float32)[None]
    after = train_heads(features, labels, each, 2, replace(HEAD, batch_size=8, dropout=0.5, seeds=(0,)))[0, 0]
    moved = after - initial_head(0, WIDTH, 2)["kernel"]
    assert np.ptp(moved, axis=0).max() > 1e-2


def test_learns_what_can_be_learnt() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(1, 600, WIDTH)).astype(np.float32)
    labels = (features[0] @ random.normal(size=WIDTH) > 0).astype(np.int32)
    logits: Any = train_heads(features[:, :500], labels[:500], features[:, 500:], 2, replace(HEAD, dropout=0.1))
    assert ((logits.argmax(axis=-1) == labels[500:]).mean(axis=-1) > 0.9).all()

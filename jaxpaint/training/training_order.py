"""The order in which examples are trained on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def shuffled(
    examples: int, batch_size: int, epochs: int, seed: int
) -> tuple[Int[np.ndarray, "steps batch"], Float[np.ndarray, "steps batch"]]:
    """Example indices of every step, and their weights in its mean: 0 fills up the last batch of an epoch."""
    random = np.random.default_rng(seed)
    steps = -(-examples // batch_size)
    order = np.zeros((epochs, steps * batch_size), np.int32)
    weight = np.zeros((epochs, steps * batch_size), np.float32)
    for epoch in range(epochs):
        order[epoch, :examples], weight[epoch, :examples] = random.permutation(examples), 1.0
    weight = weight.reshape(-1, batch_size)
    return order.reshape(-1, batch_size), weight / weight.sum(axis=1, keepdims=True)

"""How many rows train at a time, and whether layers' insides are kept for the way back."""

from __future__ import annotations

from typing import NamedTuple

from jaxpaint.base.budgets import device_memory, host_memory, on_cpu
from jaxpaint.models.family import Config
from jaxpaint.plans.plan import Plan

PART_ROWS = 8  # of a batch, at a time on a CPU: with more there is more padding
# Per trained parameter: itself, two moments, the gradient, and a second one while parts of a batch are added up.
PARAMETER_BYTES = 20


class HowToTrain(NamedTuple):
    """`part_rows` of a batch at a time; with `remat` layers' insides are computed again on the way back."""

    part_rows: int
    remat: bool


def how_to_train(
    config: Config, plan: Plan, itemsize: int, batch_size: int, length: int, parameters: int
) -> HowToTrain:
    """What fits the device: the whole batch, layers' insides kept or not, else a half, a quarter, … of it.

    Args:
        config: Of the decoder.
        plan: What runs.
        itemsize: Bytes of a number in the layers.
        batch_size: Rows of a batch.
        length: Tokens of its longest row.
        parameters: How many are trained.
    """
    rows, free = min(PART_ROWS, batch_size) if on_cpu() else batch_size, _free_bytes(parameters)
    inside = _inside_bytes(config, itemsize, length)
    if plan.cost * rows * inside <= free:
        return HowToTrain(rows, False)
    # Between layers only their input is kept, of a layer's insides one layer's at a time.
    between = length * config.hidden_size * itemsize
    while rows > 1 and rows * (plan.cost * between + inside) > free:
        rows = -(-rows // 2)
    return HowToTrain(rows, True)


def _inside_bytes(config: Config, itemsize: int, length: int) -> int:
    """About what the way back needs of one layer and row: inputs and outputs of products, norms in float32, and per
    pair of tokens and head the softmax in float32 and what is multiplied with values."""
    of_token = config.hidden_size * (9 * itemsize + 12) + config.intermediate_size * 4 * itemsize
    return length * (of_token + length * config.num_attention_heads * (itemsize + 8))


def _free_bytes(parameters: int) -> float:
    """The device's memory less what training its parameters takes; of a host, half of what it has."""
    memory = device_memory()
    return 0.5 * host_memory() if memory is None else 0.9 * memory - parameters * PARAMETER_BYTES

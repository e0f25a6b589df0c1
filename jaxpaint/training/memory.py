"""How many rows train at a time, and whether layers' insides are kept for the way back."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxpaint.base.budgets import device_memory, host_memory, on_cpu
from jaxpaint.plans.plan import Plan

PART_ROWS = 8  # of a batch, at a time on a CPU: fewer are slower, and with more there is more padding
# Per trained parameter: itself, two moments, the gradient, and a second one while parts of a batch are added up.
PARAMETER_BYTES = 20


class HowToTrain(NamedTuple):
    """`part_rows` of a batch at a time; with `remat` layers' insides are computed again on the way back."""

    part_rows: int
    remat: bool


def how_to_train(
    config: Any,
    plan: Plan,
    itemsize: int,
    batch_size: int,
    length: int,
    parameters: int,
    *,
    beside: int = 0,
    dropout: bool = False,
) -> HowToTrain:
    """What fits the device: the whole batch, layers' insides kept or not, else a half, a quarter, … of it.

    `itemsize` are bytes of a number in the layers, `length` tokens of a batch's longest row, `parameters` how many are
    trained, `beside` bytes of whatever else lies on the device. With `dropout` layers' masks are kept, too.
    """
    rows = min(PART_ROWS, batch_size) if on_cpu() else batch_size
    free = _free_bytes(parameters * PARAMETER_BYTES + beside)
    inside = _inside_bytes(config, itemsize, length, dropout)
    if plan.cost * rows * inside <= free:
        return HowToTrain(rows, False)
    # Between layers only their input is kept, of a layer's insides one layer's at a time.
    between = length * config.hidden_size * itemsize
    while rows > 1 and rows * (plan.cost * between + inside) > free:
        rows = -(-rows // 2)
    return HowToTrain(rows, True)


def _inside_bytes(config: Any, itemsize: int, length: int, dropout: bool) -> int:
    """About what the way back needs of one layer and row: inputs and outputs of products, norms in float32, masks, and
    per pair of tokens and head the softmax in float32, what is multiplied with values, and a mask."""
    experts = getattr(getattr(config, "traits", None), "experts", None)
    inside = experts.inside if experts else config.intermediate_size
    of_token = config.hidden_size * (9 * itemsize + 12 + 6 * dropout) + inside * 4 * itemsize
    return length * (of_token + length * config.num_attention_heads * (itemsize + 8 + dropout))


def _free_bytes(taken: int) -> float:
    """The device's memory less what is taken; of a host, half of what it has."""
    memory = device_memory()
    return 0.5 * host_memory() if memory is None else 0.9 * memory - taken

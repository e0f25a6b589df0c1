"""A checkpoint's tensors before they are read: their names and shapes, and how to read a part at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpaint.base.documents import shown
from jaxpaint.base.errors import UserError

BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Tensor:
    """A tensor in a checkpoint file. `part(axis, start, stop)` reads those indices of one axis and all of others.

    `strange` says why it can be no weight, such as a dtype of quantised ones; a buffer may be so, and is never read.
    `grain` is how many numbers of a row, its last axis, can only be read together. `kept` is a narrower dtype that a
    store has of it, where parts are computed in `dtype`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    part: Callable[[int, int, int], np.ndarray]
    strange: str = ""
    grain: int = 1
    kept: np.dtype | None = None

    def require_floats(self) -> None:
        """Raises UserError for what cannot be read as a weight."""
        if self.strange:
            raise UserError(f"{self.name} in {self.file} has {self.strange}")

    def blocks(self, axis: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
        """The tensor in pieces of about 16 MiB, each with its place on an axis; a single number has none."""
        if not self.shape:
            return
        size = self.shape[axis]
        width = math.prod(self.shape) // max(1, size) * self.dtype.itemsize
        step = max(1, BLOCK_BYTES // max(1, width))
        if axis == len(self.shape) - 1:
            step = max(self.grain, step // self.grain * self.grain)
        for start in range(0, size, step):
            stop = min(start + step, size)
            yield slice(start, stop), self.part(axis, start, stop)


def by_name(tensors: Sequence[Tensor], source: str) -> dict[str, Tensor]:
    """The tensors by name. Raises UserError where two files hold the same name, or what can be no weight's."""
    found: dict[str, Tensor] = {}
    duplicates = []
    for tensor in tensors:
        if not tensor.name.isprintable():
            raise UserError(
                f"{tensor.file} holds a tensor named {shown(tensor.name)}; it is damaged, download it again"
            )
        if tensor.name in found:
            first = found[tensor.name]
            duplicates.append(
                f"{tensor.name} is in {first.file} as {list(first.shape)} and in {tensor.file} as {list(tensor.shape)}"
            )
        found[tensor.name] = tensor
    if duplicates:
        raise UserError(f"{source} holds tensors twice: {abbreviated(duplicates)}")
    return found


def abbreviated(items: Sequence[str], limit: int = 4) -> str:
    """The first few of many, on one line."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more

"""Rows of queries and keys whose neighbours turn against each other, as Meta's and llama.cpp's do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.errors import UserError


def half_split(tensor: Tensor, heads: int) -> Tensor:
    """Within each head, even rows first and odd rows after: halves turn against each other, as transformers has it.

    Raises:
        UserError: rows that are not so many heads' pairs.
    """
    if tensor.shape[0] % (2 * heads):
        raise UserError(f"{tensor.name} in {tensor.file} has {tensor.shape[0]} rows, not a multiple of 2*{heads} heads")
    head_dim = tensor.shape[0] // heads
    origin = np.arange(tensor.shape[0]).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)

    def read(along: int, start: int, stop: int) -> np.ndarray:
        if along != 0:
            return tensor.part(along, start, stop)[origin]
        first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
        return tensor.part(0, first, last)[origin[start:stop] - first]

    return replace(tensor, part=read)

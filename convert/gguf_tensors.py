"""Tensors of GGUF files, memory-mapped and dequantised a part at a time by the `gguf` package."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from convert.gguf_files import GgufTensor
from convert.tensors import Tensor
from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType


def weight(name: str, found: GgufTensor) -> Tensor:
    """A tensor as a weight of this name; what is quantised becomes float32."""
    import ml_dtypes
    from gguf import GGML_QUANT_SIZES
    from gguf import GGMLQuantizationType as Type

    kind = Type(found.type)
    narrow = {Type.F16: np.dtype(np.float16), Type.BF16: np.dtype(ml_dtypes.bfloat16)}
    return Tensor(
        name,
        found.shape,
        narrow.get(kind, np.dtype(np.float32)),
        found.file.name,
        partial(_part, found, kind),
        "" if _is_readable(kind) else f"the type {kind.name}, which the gguf package does not dequantise",
        grain=GGML_QUANT_SIZES[kind][0],
    )


def values(found: GgufTensor) -> np.ndarray:
    """All of a small tensor's numbers. Raises UserError where the package cannot read its type."""
    tensor = weight("a tensor", found)
    tensor.require_floats()
    return tensor.part(0, 0, found.shape[0])


def less_one(tensor: Tensor) -> Tensor:
    """In float32: 1 less, where the scale of a norm is written with the 1 that the model adds."""

    def read(axis: int, start: int, stop: int) -> np.ndarray:
        return tensor.part(axis, start, stop) - np.float32(1)

    return replace(tensor, dtype=np.dtype(np.float32), part=read)


def _part(found: GgufTensor, kind: GGMLQuantizationType, axis: int, start: int, stop: int) -> np.ndarray:
    from gguf import GGML_QUANT_SIZES, dequantize

    block, size = GGML_QUANT_SIZES[kind]
    *rows, columns = found.shape
    count = rows[0] if rows else 1
    along_columns = axis == len(rows)
    first, last = (start // block, -(-stop // block)) if along_columns else (0, columns // block)
    if found.file.stat().st_size < found.offset + found.size:
        raise UserError(f"{found.file} was changed while it was read")
    packed = np.memmap(found.file, np.uint8, "r", found.offset, (count, columns // block * size))
    chosen = slice(None) if along_columns else slice(start, stop)
    with np.errstate(all="ignore"):
        read = dequantize(np.array(packed[chosen, first * size : last * size]), kind)
    if along_columns:
        read = read[:, start - first * block : stop - first * block]
    return read if rows else read[0]


@cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    from gguf import GGML_QUANT_SIZES, dequantize

    try:
        return dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind).dtype == np.float32
    except (NotImplementedError, KeyError):
        return False

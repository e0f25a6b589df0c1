"""Weights of 8-bit floats or integers with scales beside them: fp8, fbgemm, compressed-tensors.

W[i, j] is q[i, j] * scale[i // rows, j // columns]: one scale for all, one a row, one a group of a row, or one a block
(transformers: `Fp8Dequantize`; compressed-tensors: `quantization.lifecycle.forward.dequantize`). Zero points are taken
off before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.documents import checked, shown
from jaxpaint.base.errors import UserError

CHUNK_ROWS = 256
# Beside a module's weight, of quantised activations: not read.
ACTIVATIONS = ("activation_scale", "input_scale", "input_scale_ub", "input_zero_point", "output_scale")
FORMATS = ("float-quantized", "naive-quantized", "int-quantized")


def from_fp8(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: np.dtype) -> dict[str, Tensor]:
    """Of `quant_method` fp8 (scales of blocks or one, `weight_scale_inv`) and fbgemm_fp8 (of rows, `weight_scale`)."""
    for name, values in (("fmt", ("e4m3", "float8_e4m3fn")), ("scale_fmt", ("float",))):
        if settings.get(name) not in (None, *values):
            raise UserError(f"quantization_config has {name}={shown(settings[name])}; only {values[0]} is undone here")
    block = checked(settings.get("weight_block_size"), list[int] | None, "weight_block_size in config.json")  # type: ignore[arg-type]
    if block is not None and (len(block) != 2 or min(block) < 1):
        raise UserError(f"weight_block_size={shown(block)} in config.json is not two sizes")
    return _scaled(tensors, kept, np.dtype("float8_e4m3fn"), ("weight_scale_inv", "weight_scale"), block)


def from_compressed(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: np.dtype) -> dict[str, Tensor]:
    """Of `quant_method` compressed-tensors whose weights are whole numbers of 8 bits, floats or integers."""
    groups = checked(settings.get("config_groups") or {}, dict[str, dict[str, Any]], "config_groups in config.json")
    for name, group in groups.items():
        form = group.get("format") or settings.get("format")
        weights = group.get("weights") or {}
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        if form not in FORMATS or bits != 8:
            raise UserError(
                f"quantization_config has format {shown(form)} with {shown(bits)} bits in {name}; only "
                f"{', '.join(FORMATS)} with 8 are undone here: convert the checkpoint that it was made from"
            )
    found = _scaled(tensors, kept, np.dtype("float8_e4m3fn"), ("weight_scale",), None)
    return _scaled(found, kept, np.dtype("int8"), ("weight_scale",), None)


def _scaled(
    tensors: Mapping[str, Tensor], kept: np.dtype, dtype: np.dtype, names: tuple[str, ...], block: list[int] | None
) -> dict[str, Tensor]:
    """The tensors with each weight of a dtype as floats, and without what only it needs."""
    found = dict(tensors)
    for name, weight in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or weight.dtype != dtype or not weight.strange:
            continue
        scales = [f"{module}.{each}" for each in names if f"{module}.{each}" in tensors]
        if len(scales) != 1:
            raise UserError(f"{name} in {weight.file} is quantised ({dtype}) and has no {' or '.join(names)} beside it")
        zero = found.pop(f"{module}.weight_zero_point", None)
        found[name] = _floats(weight, found.pop(scales[0]), zero, block, kept)
        for more in ACTIVATIONS:
            found.pop(f"{module}.{more}", None)
    return found


def _floats(weight: Tensor, scale: Tensor, zero: Tensor | None, block: list[int] | None, kept: np.dtype) -> Tensor:
    scale.require_floats()
    if len(weight.shape) != 2:
        raise UserError(f"{weight.name} in {weight.file} is quantised and {list(weight.shape)}, no matrix")
    grid = scale.shape if len(scale.shape) == 2 else (1, 1) if scale.shape in ((), (1,)) else (*scale.shape, 1)
    blocks = tuple(_extent(size, parts) for size, parts in zip(weight.shape, grid, strict=False))
    if block is not None and grid != (1, 1):
        blocks = block[0], block[1]
    fits = len(grid) == 2 and all(
        extent and -(-size // extent) == parts for size, parts, extent in zip(weight.shape, grid, blocks, strict=True)
    )
    if not fits or (zero is not None and (zero.shape != scale.shape or not np.issubdtype(zero.dtype, np.integer))):
        by = f" in blocks of {block}" if block else ""
        more = f" and {zero.name} {list(zero.shape)} of {zero.dtype}" if zero is not None else ""
        raise UserError(
            f"{scale.name} in {scale.file} is {list(scale.shape)}{more}, which does not go with {weight.name} "
            f"{list(weight.shape)}{by}"
        )

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        stored = weight.part(axis, start, stop)
        places = [np.arange(size) // extent for size, extent in zip(weight.shape, blocks, strict=True)]
        places[axis] = places[axis][start:stop]
        scales = _whole(scale).astype(np.float32).reshape(grid)
        zeros = None if zero is None else _whole(zero).astype(np.float32).reshape(grid)
        out = np.empty(stored.shape, np.float32)
        for row in range(0, len(stored), CHUNK_ROWS):
            rows = slice(row, row + CHUNK_ROWS)
            there = np.ix_(places[0][rows], places[1])
            value = stored[rows].astype(np.float32)
            out[rows] = (value if zeros is None else value - zeros[there]) * scales[there]
        return out

    return Tensor(weight.name, weight.shape, np.dtype(np.float32), weight.file, part, kept=kept)


def _extent(size: int, parts: int) -> int:
    """Of equal blocks; 0 where there are none."""
    return size // parts if parts and size % parts == 0 else 0


def _whole(tensor: Tensor) -> np.ndarray:
    return tensor.part(0, 0, tensor.shape[0] if tensor.shape else 1)

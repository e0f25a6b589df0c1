"""Tensors of safetensors files, memory-mapped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.errors import UserError

# Names of the safetensors format; others (8-bit floats, integers) are of quantised checkpoints.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED = {"F8_E4M3": "float8_e4m3fn", "I32": "int32", "I64": "int64", "I8": "int8"}


def read_header(file: Path) -> list[Tensor]:
    """The tensors of one file, none of them read yet.

    Raises:
        UserError: a truncated or corrupt file.
    """
    import ml_dtypes  # noqa: F401 (safetensors asks numpy for bfloat16, which it registers)
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, framework="numpy")
        # Entering it maps the file; the map lives as long as the tensors do.
        opened.__enter__()
        names = list(opened.keys())
    except SafetensorError as error:
        raise UserError(
            f"{file} is truncated or corrupt ({file.stat().st_size} bytes; {error}); download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    tensors = []
    for name in names:
        part = opened.get_slice(name)
        kind = part.get_dtype()
        strange = "" if kind in DTYPES else _strange(kind)
        dtype = _dtype(kind)
        shape = tuple(part.get_shape())
        read = partial(_read, part) if shape else partial(_number, opened, name)
        if kind == "F8_E4M3":  # which safetensors does not read into numpy's arrays
            read = partial(_read, np.memmap(file, dtype, "r", offset=_offset(file, name), shape=shape or (1,)))
        tensors.append(Tensor(name, shape, dtype, file.name, read, strange))
    return tensors


def _dtype(kind: str) -> np.dtype:
    import ml_dtypes

    name = {**DTYPES, **QUANTISED}.get(kind, "float32")
    return np.dtype(getattr(ml_dtypes, name, name))


def _offset(file: Path, name: str) -> int:
    """Where a tensor's bytes begin, of a file whose header safetensors has read and found right."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    return int(8 + size + header[name]["data_offsets"][0])


def _number(opened: Any, name: str, axis: int, start: int, stop: int) -> np.ndarray:
    return np.asarray(opened.get_tensor(name))


def _strange(kind: str) -> str:
    return f"dtype {kind}; only float weights convert ({', '.join(DTYPES)}): use the checkpoint that is not quantised"


def _read(tensor: Any, axis: int, start: int, stop: int) -> np.ndarray:
    return tensor[start:stop] if axis == 0 else tensor[:, start:stop]

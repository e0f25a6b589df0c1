"""Tensors of safetensors files, memory-mapped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.errors import UserError

# Names of the safetensors format; others (8-bit floats, integers) are of quantised checkpoints.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_header(file: Path) -> list[Tensor]:
    """The tensors of one file, none of them read yet.

    Raises:
        UserError: a truncated or corrupt file.
    """
    import ml_dtypes
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
        dtype = np.dtype(ml_dtypes.bfloat16) if kind == "BF16" else np.dtype(DTYPES.get(kind, "float32"))
        tensors.append(Tensor(name, tuple(part.get_shape()), dtype, file.name, partial(_read, part), strange))
    return tensors


def _strange(kind: str) -> str:
    return f"dtype {kind}; only float weights convert ({', '.join(DTYPES)}): use the checkpoint that is not quantised"


def _read(tensor: Any, axis: int, start: int, stop: int) -> np.ndarray:
    return tensor[start:stop] if axis == 0 else tensor[:, start:stop]

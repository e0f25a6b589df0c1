"""Tensors of torch's own files (`pytorch_model*.bin`, `consolidated.*.pth`), memory-mapped, by its safe loader."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.models import BUFFERS


def read_torch_file(file: Path) -> list[Tensor]:
    """The tensors of one file, none of them read yet. Nothing in the file is executed.

    Raises:
        UserError: torch is not installed, or the file is corrupt, holds more than tensors or has an old format.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{file} is a torch file and torch is not installed: `pip install torch`, or use the checkpoint's "
            "safetensors files"
        ) from None
    import pickle

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is corrupt or holds Python objects beside tensors, which are never executed; use the "
            "checkpoint's safetensors files"
        ) from error
    except Exception as error:  # whatever torch makes of bytes that are not its own
        reason = first_line(error)
        raise UserError(
            f"{file} is truncated, corrupt or in torch's format of before 2020 ({reason}); download it again, or "
            "save it again with torch.save"
        ) from error
    names = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
    tensors = []
    for name, value in state.items() if isinstance(state, dict) else ():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{name} in {file} is a {type(value).__name__}, not a tensor: is it a model's weights?")
        if value.dtype not in names and not str(name).endswith(BUFFERS):
            raise UserError(f"{name} in {file} has dtype {value.dtype}; only float weights convert")
        dtype = _numpy_dtype(names.get(value.dtype, "float32"))
        tensors.append(Tensor(str(name), tuple(value.shape), dtype, file.name, partial(_read, value, dtype)))
    return tensors


def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _read(value: Any, dtype: np.dtype, axis: int, start: int, stop: int) -> np.ndarray:
    import torch

    part = value.narrow(axis, start, stop - start)
    # numpy has no bfloat16 of its own: the same bytes, under ml_dtypes' name.
    return part.view(torch.int16).numpy().view(dtype) if part.dtype == torch.bfloat16 else part.numpy()

"""Tensors of torch's own files (`pytorch_model*.bin`, `consolidated.*.pth`) by its safe loader: nothing is executed.

Files of torch 1.6 and later are memory-mapped; the format before that has no place to map and is read whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.errors import UserError, first_line

ZIP = b"PK\x03\x04"  # how files begin since torch 1.6
# What trainers keep a model's weights under, beside their own state.
WRAPPED = ("state_dict", "model_state_dict", "model", "module")


def read_torch_file(file: Path) -> list[Tensor]:
    """The tensors of one file, none of them read yet. Nothing in the file is executed.

    Raises:
        UserError: torch is not installed, or the file is corrupt or holds more than tensors.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{file} is a torch file and torch is not installed: `pip install torch`, or use the checkpoint's "
            "safetensors files"
        ) from None
    names = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
    tensors = []
    for name, value in _state(file).items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{name} in {file} is a {type(value).__name__}, not a tensor: is it a model's weights?")
        # Of a Parameter, the tensor.
        value, strange = value.detach(), ""
        if value.dtype not in names:
            strange = f"dtype {value.dtype}; only float weights convert"
        elif value.layout != torch.strided or value.is_meta:
            strange = "no numbers of its own" if value.is_meta else f"layout {value.layout}; only dense weights convert"
        dtype = _numpy_dtype(names.get(value.dtype, "float32"))
        tensors.append(Tensor(str(name), tuple(value.shape), dtype, file.name, partial(_read, value, dtype), strange))
    return tensors


def _state(file: Path) -> Mapping[Any, Any]:
    """The tensors by name, taken out of what a trainer put around them."""
    import torch

    saved = _loaded(file)
    if isinstance(saved, Mapping) and not all(isinstance(value, torch.Tensor) for value in saved.values()):
        saved = next((saved[key] for key in WRAPPED if isinstance(saved.get(key), Mapping)), saved)
    if not isinstance(saved, Mapping):
        raise UserError(f"{file} holds a {type(saved).__name__}, not tensors by name: is it a model's weights?")
    return saved


def _loaded(file: Path) -> Any:
    """What `torch.load` makes of a file when it may make nothing but tensors and plain containers."""
    import pickle

    import torch

    try:
        with file.open("rb") as opened:
            mapped = opened.read(len(ZIP)) == ZIP
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages' types, in files of older versions
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is corrupt or holds Python objects beside tensors, which are never executed; use the "
            "checkpoint's safetensors files"
        ) from error
    except Exception as error:  # whatever torch makes of bytes that are not its own
        reason = first_line(error)
        raise UserError(
            f"{file} is truncated, corrupt or not a torch file ({reason}); download it again, or save it again with "
            "torch.save"
        ) from error


def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _read(value: Any, dtype: np.dtype, axis: int, start: int, stop: int) -> np.ndarray:
    import torch

    part = value.narrow(axis, start, stop - start)
    # numpy has no bfloat16 of its own: the same bytes, under ml_dtypes' name.
    return part.view(torch.int16).numpy().view(dtype) if part.dtype == torch.bfloat16 else part.numpy()

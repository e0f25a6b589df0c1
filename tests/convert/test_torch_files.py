"""Torch's own files in every form that people have them in, against the model they were saved from."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from convert import convert
from jaxpaint.base.errors import UserError
from tests.helpers.checkpoints import assert_converted, assert_nothing_written, make_model


def _older(value: Any, file: Path) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


def _strided(value: torch.Tensor) -> torch.Tensor:
    """The same numbers, not side by side."""
    return torch.stack([value, value + 1], dim=-1)[..., 0]


def _one_storage(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor a view of one storage, at its own place."""
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(state.items(), parts, strict=True)}


FORMS = {
    "parameters": lambda model, state: dict(model.named_parameters()),
    "an ordered dictionary with metadata": lambda model, state: model.state_dict(),
    "transposed and strided": lambda model, state: {
        name: value.T.contiguous().T if value.ndim == 2 else _strided(value) for name, value in state.items()
    },
    "one storage": lambda model, state: _one_storage(state),
    "state_dict": lambda model, state: {"state_dict": state, "epoch": 3, "best": 0.5, "args": {"lr": 0.1}},
    "model": lambda model, state: {"model": OrderedDict(state), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "model_state_dict of parameters": lambda model, state: {
        "model_state_dict": dict(model.named_parameters()),
        "it": 1,
    },
    "module": lambda model, state: {"module": {f"module.{name}": value for name, value in state.items()}, "dp": None},
}


@pytest.mark.parametrize("save", [torch.save, _older], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.few(1)
def test_every_form_is_read(tmp_path: Path, form: str, save: Any) -> None:
    model = make_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    save(FORMS[form](model, dict(model.state_dict())), tmp_path / "model" / "pytorch_model.bin")
    assert_converted(convert(tmp_path / "model", tmp_path / "store"), model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("save", [torch.save, _older], ids=["zip", "before 1.6"])
@pytest.mark.few(1)
def test_narrow_parameters_that_are_not_side_by_side(tmp_path: Path, dtype: torch.dtype, save: Any) -> None:
    model = make_model(tmp_path / "model", dtype=dtype)
    (tmp_path / "model" / "model.safetensors").unlink()
    state = {name: torch.nn.Parameter(value.detach().t()) for name, value in model.state_dict().items()}
    save({name: value.t() for name, value in state.items()}, tmp_path / "model" / "pytorch_model.bin")
    assert_converted(convert(tmp_path / "model", tmp_path / "store"), model)


def _refused(tmp_path: Path, value: Any, named: str, save: Any = torch.save) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    save(value, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match=named) as caught:
        convert(tmp_path / "model", tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert_nothing_written(tmp_path / "store")


@pytest.mark.parametrize("wrapped", [False, True])
def test_nothing_in_a_file_of_the_older_format_is_executed(tmp_path: Path, wrapped: bool) -> None:
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    value = {"model": {"model.norm.weight": torch.ones(16)}, "args": Malicious()} if wrapped else Malicious()
    _refused(tmp_path, value, "never executed", _older)
    assert not marker.exists()


def test_a_plain_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    _refused(tmp_path, Malicious(), r"pytorch_model\.bin", lambda value, file: file.write_bytes(pickle.dumps(value)))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([torch.ones(3)], "holds a list, not tensors by name"),
        (torch.ones(3), "holds a Tensor, not tensors by name"),
        ({"model.norm.weight": 3}, "is a int, not a tensor"),
        ({"state_dict": {"state_dict": {}}}, "is a dict, not a tensor"),
        ({"model.norm.weight": torch.ones(16, dtype=torch.int8)}, "dtype torch.int8"),
        ({"model.norm.weight": torch.ones(16).to_sparse()}, "layout torch.sparse_coo"),
        ({"model.norm.weight": torch.ones(16, device="meta")}, "no numbers of its own"),
    ],
    ids=["list", "tensor", "number", "wrapped twice", "int8", "sparse", "meta"],
)
def test_what_is_no_models_weights_is_refused_by_name(tmp_path: Path, value: Any, named: str) -> None:
    _refused(tmp_path, value, named)


@pytest.mark.parametrize("keep", [0, 1, 10, 200, 0.5, 0.98])
def test_a_truncated_file_of_the_older_format(tmp_path: Path, keep: float) -> None:
    model = make_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    file = tmp_path / "model" / "pytorch_model.bin"
    _older(dict(model.state_dict()), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")

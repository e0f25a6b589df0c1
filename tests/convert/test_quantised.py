"""Checkpoints that were saved quantised, against transformers' own loading and the libraries' definitions in torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from convert import config_for, convert, export, store_for
from convert.sources import resolve
from convert.to_store import architecture
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from jaxpaint.plans.plan import Plan
from tests.helpers.checkpoints import assert_nothing_written, edit_tensors
from tests.helpers.decoders import make_tiny, stacked_parameters

Parts = dict[str, torch.Tensor]
GENERATOR = torch.Generator()


def quantise(
    folder: Path,
    settings: Mapping[str, Any],
    made: Callable[[torch.Tensor], tuple[Parts, torch.Tensor]],
    variation: str = "attention bias",
) -> Any:
    """Saves a tiny model with the weights of its layers' linear modules quantised; returns it with what they stand for.

    `made` gives of a weight the tensors in its place, by the ends of their names, and what they stand for.
    """
    GENERATOR.manual_seed(0)
    network = copy.deepcopy(make_tiny(variation).torch)
    tensors = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            del tensors[f"{name}.weight"]
            parts, weight = made(module.weight.detach())
            tensors |= {f"{name}.{end}": part.contiguous() for end, part in parts.items()}
            with torch.no_grad():
                module.weight.copy_(weight)
    network.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    set_config(folder, quantization_config=settings)
    return network


def set_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def assert_stands_for(store: Path, network: Any) -> None:
    stored = flatten_dict(checkpoint.restore(store), sep="/")
    weights = stacked_parameters(network.state_dict(), network.config.num_hidden_layers)
    for path, value in flatten_dict(weights, sep="/").items():
        np.testing.assert_array_equal(np.asarray(stored[path], np.float32), value, err_msg=path)


def assert_read(folder: Path, network: Any) -> None:
    """Whole, and a part of each axis that begins and ends within words and blocks."""
    tensors = architecture(resolve(folder)).tensors
    weights = network.state_dict()
    assert tensors.keys() == weights.keys()
    for name, tensor in tensors.items():
        weight = weights[name].numpy()
        np.testing.assert_array_equal(tensor.part(0, 0, len(weight)), weight, err_msg=name)
        for axis in range(weight.ndim):
            part = weight.take(range(5, 14), axis)
            np.testing.assert_array_equal(tensor.part(axis, 5, 14), part, err_msg=f"{name}, axis {axis}")


def fp8_blocks(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    """Blocks of 16 by 16, each scaled to the largest number of e4m3."""
    rows, columns = (size // 16 for size in weight.shape)
    blocks = weight.reshape(rows, 16, columns, 16)
    scale = blocks.abs().amax(dim=(1, 3)) / 448
    stored = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    floats = (stored.float().reshape(blocks.shape) * scale[:, None, :, None]).reshape(weight.shape)
    return {"weight": stored, "weight_scale_inv": scale}, floats


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def test_fp8_blocks_are_as_transformers_reads_them(tmp_path: Path) -> None:
    quantise(tmp_path / "model", FP8, fp8_blocks)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    store = convert(tmp_path / "model", tmp_path / "store")
    assert_stands_for(store, theirs)
    exported = export(store, tmp_path / "exported", Plan.parse("0-4"))
    assert_stands_for(store, AutoModelForCausalLM.from_pretrained(exported))
    assert "quantization_config" not in json.loads((exported / "config.json").read_text())


def test_a_store_is_as_wide_as_the_config_says(tmp_path: Path) -> None:
    quantise(tmp_path / "model", FP8, fp8_blocks)
    edit_tensors(tmp_path / "model", lambda t: t.update({k: v.bfloat16() for k, v in t.items() if "norm" in k}))
    edit_tensors(tmp_path / "model", lambda t: t.update({k: v.bfloat16() for k, v in t.items() if "emb" in k}))
    edit_tensors(tmp_path / "model", lambda t: t.update({k: v.bfloat16() for k, v in t.items() if "bias" in k}))
    edit_tensors(tmp_path / "model", lambda t: t.update({"lm_head.weight": t["lm_head.weight"].bfloat16()}))
    set_config(tmp_path / "model", dtype="bfloat16")
    store = convert(tmp_path / "model", tmp_path / "store")
    assert checkpoint.read_manifest(store)["dtype"] == "bfloat16"
    assert_stands_for(store, AutoModelForCausalLM.from_pretrained(tmp_path / "model").float())


def fp8_whole(weight: torch.Tensor, name: str, shape: tuple[int, ...]) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / 448 if len(shape) == 2 else weight.abs().max() / 448
    stored = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": stored, name: scale.reshape(shape), "input_scale": torch.ones(1)}, stored.float() * scale


def int8_rows(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round().clamp(-128, 127).to(torch.int8)
    stored = (weight / scale + zero).round().clamp(-128, 127).to(torch.int8)
    floats = (stored.float() - zero.float()) * scale
    return {"weight": stored, "weight_scale": scale, "weight_zero_point": zero}, floats


def compressed(form: str, kind: str, strategy: str) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": kind == "float", "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        "kv_cache_scheme": None,
    }


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({**FP8, "weight_block_size": None}, lambda weight: fp8_whole(weight, "weight_scale_inv", ())),
        ({"quant_method": "fbgemm_fp8"}, lambda weight: fp8_whole(weight, "weight_scale", (len(weight), 1))),
        (compressed("float-quantized", "float", "tensor"), lambda weight: fp8_whole(weight, "weight_scale", (1,))),
        (compressed("int-quantized", "int", "channel"), int8_rows),
    ],
    ids=["fp8, one scale", "fbgemm", "compressed-tensors fp8", "compressed-tensors int8"],
)
def test_eight_bits_with_scales(tmp_path: Path, settings: Any, made: Any) -> None:
    assert_read(tmp_path / "model", quantise(tmp_path / "model", settings, made))


def packed(values: torch.Tensor, bits: int, dim: int, places: tuple[int, ...] | None = None) -> torch.Tensor:
    """Whole numbers of 0 or more in int32 words along a dimension, the lowest bits first."""
    words = values.long().unflatten(dim, (-1, 32 // bits)).movedim(dim + 1, -1)
    words = words if places is None else words[..., places]
    joined = sum(words[..., place] << (bits * place) for place in range(32 // bits))
    return torch.where(joined >= 2**31, joined - 2**32, joined).int()


def gptq(weight: torch.Tensor, bits: int, groups: torch.Tensor, less: int) -> tuple[Parts, torch.Tensor]:
    """Whole numbers at random, as quantising would not make all of them; `less` is what zero points are stored less."""
    count = int(groups.max()) + 1
    stored = torch.randint(0, 2**bits, weight.T.shape, generator=GENERATOR)
    zeros = torch.randint(0, 2**bits, (count, len(weight)), generator=GENERATOR)
    scales = (torch.rand(count, len(weight), generator=GENERATOR) / 2**bits).half()
    floats = (scales.float()[groups] * (stored - zeros[groups])).T
    parts = {
        "qweight": packed(stored, bits, 0),
        "qzeros": packed((zeros - less) % 2**bits, bits, 1),
        "scales": scales,
        "g_idx": groups.int(),
    }
    return parts, floats


def in_order(weight: torch.Tensor) -> torch.Tensor:
    return torch.arange(weight.shape[1]) // 16


def shuffled(weight: torch.Tensor) -> torch.Tensor:
    return in_order(weight)[torch.randperm(weight.shape[1], generator=GENERATOR)]


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True, "damp_percent": 0.1}


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        (GPTQ, lambda weight: gptq(weight, 4, in_order(weight), 1)),
        ({**GPTQ, "bits": 8, "desc_act": True, "sym": False}, lambda weight: gptq(weight, 8, shuffled(weight), 1)),
        ({**GPTQ, "group_size": -1, "checkpoint_format": "gptq_v2"}, lambda w: gptq(w, 4, in_order(w) * 0, 0)),
    ],
    ids=["4 bits", "8 bits in another order", "one group, second format"],
)
def test_gptq(tmp_path: Path, settings: Any, made: Any) -> None:
    assert_read(tmp_path / "model", quantise(tmp_path / "model", settings, made))


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}


def awq(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    scales = gptq(weight, 4, in_order(weight), 0)[0]["scales"]
    stored = torch.randint(0, 16, weight.T.shape, generator=GENERATOR)
    zeros = torch.randint(0, 16, scales.shape, generator=GENERATOR)
    order = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's WQLinear_GEMM.from_linear
    made = {"qweight": packed(stored, 4, 1, order), "qzeros": packed(zeros, 4, 1, order), "scales": scales}
    groups = in_order(weight)
    return made, (scales.float()[groups] * (stored - zeros[groups])).T


def test_awq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    network = quantise(tmp_path / "model", AWQ, awq)
    assert_stands_for(store_for(tmp_path / "model"), network)
    assert config_for(tmp_path / "model") == make_tiny("attention bias").model.config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"by 'bitsandbytes'.*model\.dequantize\(\)"),
        ({"quant_method": "mxfp4"}, "Mxfp4Config"),
        ({"quant_method": "aqlm", "nbits": 2}, "by 'aqlm'.*convert the checkpoint that it was made from"),
        ({"bits": 4}, "by None"),
        ({"quant_method": ["gptq"]}, "by"),
        ("int8", "no object of settings"),
        ({**GPTQ, "bits": 3}, "bits=3; 4 or 8 are undone"),
        ({**GPTQ, "bits": True}, "bits=True"),
        ({**GPTQ, "group_size": 0}, "group_size=0"),
        ({**GPTQ, "group_size": 32}, r"qzeros .*\[3, 4\].*needs \[2, 4\]"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "format 'marlin'.*'gptq_v2'"),
        ({**GPTQ, "dynamic": {"+:.*up_proj": {"bits": 8}}}, "dynamic="),
        ({**AWQ, "version": "gemv"}, "version 'gemv'.*only 'gemm'"),
        ({**AWQ, "bits": 8}, "bits=8; 4 are undone"),
        ({**FP8, "scale_fmt": "ue8m0"}, "scale_fmt='ue8m0'"),
        ({**FP8, "weight_block_size": [16]}, "weight_block_size"),
        (compressed("pack-quantized", "int", "group"), "'pack-quantized'"),
        ({**compressed("int-quantized", "int", "channel"), "sparsity_config": {"format": "dense"}}, "sparsity_config"),
    ],
)
def test_what_is_not_undone_is_refused_by_name(tmp_path: Path, settings: Any, named: str) -> None:
    quantise(tmp_path / "model", settings, lambda weight: gptq(weight, 4, in_order(weight), 1))
    with pytest.raises(UserError, match=named):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "made", "change", "named"),
    [
        (FP8, fp8_blocks, lambda t: t.pop(f"{Q}.weight_scale_inv"), "has no weight_scale_inv or weight_scale"),
        (FP8, fp8_blocks, lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(2, 3)}), r"\[2, 3\].*\[32, 32\]"),
        (FP8, fp8_blocks, lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(4, 4)}), r"blocks of \[16, 16\]"),
        (FP8, fp8_blocks, lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(2, 2).int()}), "dtype I32"),
        (GPTQ, None, lambda t: t.pop(f"{Q}.qzeros"), r"no model\.layers\.0\.self_attn\.q_proj\.qzeros"),
        (GPTQ, None, lambda t: t.update({f"{Q}.scales": torch.ones(3, 32)}), r"scales .*\[3, 32\].*needs \[2, 32\]"),
        (GPTQ, None, lambda t: t.update({f"{Q}.g_idx": torch.full((32,), 2).int()}), "g_idx .*one of 2 groups"),
        (GPTQ, None, lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"].long()}), "int32"),
        (GPTQ, None, lambda t: t.update({f"{Q}.weight": torch.ones(32, 32)}), "twice"),
    ],
)
def test_damaged_tensors_are_refused(tmp_path: Path, settings: Any, made: Any, change: Any, named: str) -> None:
    quantise(tmp_path / "model", settings, made or (lambda weight: gptq(weight, 4, in_order(weight), 1)))
    edit_tensors(tmp_path / "model", change)
    with pytest.raises(UserError, match=named):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")

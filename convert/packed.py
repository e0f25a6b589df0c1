"""Weights of 4 or 8 bits packed into int32: GPTQ, and AWQ as its gemm has them.

Both keep W transposed, [in, out], and W[i, o] is scale[g, o] * (q[i, o] - zero[g, o]) for the group g of input i
(AutoGPTQ: `qlinear_cuda_old.QuantLinear.forward`; AutoAWQ: `awq.utils.packing_utils.dequantize_gemm`). GPTQ packs
weights along the inputs and AWQ along the outputs, in an order of its own; both pack zero points along the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.tensors import Tensor
from jaxpaint.base.documents import shown
from jaxpaint.base.errors import UserError

CHUNK_ROWS = 256
LEAVES = ("qweight", "qzeros", "scales", "g_idx")
# Where AWQ packs outputs 0 to 7 of eight in one int32, lowest bits first.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class Packed:
    """One module's tensors; sizes are counted in weights."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    groups: Tensor | None
    name: str
    bits: int
    group_size: int

    @property
    def per_word(self) -> int:
        return 32 // self.bits


def from_gptq(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: np.dtype) -> dict[str, Tensor]:
    """Of `quant_method` gptq, in groups, with or without `desc_act`, which is in `g_idx`."""
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise UserError(
            f"quantization_config has the format {shown(form)}; of GPTQ only 'gptq' and 'gptq_v2' are undone here: "
            "convert the checkpoint that it was made from"
        )
    # The first format has zero points less 1, in as many bits.
    added = int(form == "gptq")
    return _unpacked(settings, tensors, kept, (4, 8), lambda packed: _gptq(packed, added, kept))


def from_awq(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: np.dtype) -> dict[str, Tensor]:
    """Of `quant_method` awq, version gemm."""
    version = settings.get("version") or settings.get("format") or "gemm"
    if str(version).lower() != "gemm":
        raise UserError(
            f"quantization_config has the version {shown(version)}; of AWQ only 'gemm' is undone here: convert the "
            "checkpoint that it was made from"
        )
    return _unpacked(settings, tensors, kept, (4,), lambda packed: _awq(packed, kept))


def _unpacked(
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    kept: np.dtype,
    widths: tuple[int, ...],
    unpacked: Callable[[Packed], Tensor],
) -> dict[str, Tensor]:
    bits, group_size = settings.get("bits", 4), settings.get("group_size", 128)
    if bits not in widths or isinstance(bits, bool):
        raise UserError(
            f"quantization_config has bits={shown(bits)}; {' or '.join(map(str, widths))} are undone here: convert the "
            "checkpoint that it was made from"
        )
    if not isinstance(group_size, int) or isinstance(group_size, bool) or (group_size < 1 and group_size != -1):
        raise UserError(f"quantization_config has group_size={shown(group_size)}, which is no size of groups")
    found = dict(tensors)
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if kind != "qweight":
            continue
        of_module = {leaf: found.pop(f"{module}.{leaf}", None) for leaf in LEAVES}
        weight, zeros, scales = (_require(of_module[leaf], f"{module}.{leaf}", tensors[name]) for leaf in LEAVES[:3])
        made = unpacked(Packed(weight, zeros, scales, of_module["g_idx"], f"{module}.weight", bits, group_size))
        if made.name in found:
            raise UserError(f"{made.file} holds {made.name} twice: as it is, and as {name}; keep one")
        found[made.name] = made
    return found


def _require(tensor: Tensor | None, name: str, beside: Tensor) -> Tensor:
    if tensor is None:
        raise UserError(f"{beside.file} holds {beside.name} and no {name}; it is damaged, download it again")
    if len(tensor.shape) != 2 or (name.endswith("scales") and tensor.strange):
        raise UserError(f"{name} in {tensor.file} is {tensor.dtype} {list(tensor.shape)}, not what packed weights have")
    if not name.endswith("scales") and tensor.dtype != np.int32:
        raise UserError(f"{name} in {tensor.file} is {tensor.strange or tensor.dtype}, and should be packed in int32")
    return tensor


def _gptq(packed: Packed, added: int, kept: np.dtype) -> Tensor:
    inputs, outputs = packed.qweight.shape[0] * packed.per_word, packed.qweight.shape[1]
    group_of = _groups(packed, inputs, outputs)

    def rows(first: int, last: int, columns: slice) -> np.ndarray:
        before = first // packed.per_word
        words = packed.qweight.part(0, before, -(-last // packed.per_word))[:, columns]
        values = _bits(words[:, None, :], packed.bits, 1).reshape(-1, words.shape[1])
        return values[first - before * packed.per_word :][: last - first]

    def zeros() -> np.ndarray:
        words = _whole(packed.qzeros)
        values = _bits(words[:, :, None], packed.bits, 2).reshape(len(words), -1)
        return (values + added) & (2**packed.bits - 1)

    return _tensor(packed, (inputs, outputs), group_of, rows, zeros, kept)


def _awq(packed: Packed, kept: np.dtype) -> Tensor:
    inputs, outputs = packed.qweight.shape[0], packed.qweight.shape[1] * packed.per_word
    if packed.groups is not None:
        raise UserError(f"{packed.groups.name} in {packed.groups.file} is no part of AWQ's gemm: is it GPTQ's?")
    group_of = _groups(packed, inputs, outputs)

    def unpacked(words: np.ndarray) -> np.ndarray:
        return _bits(words[:, :, None], packed.bits, 2)[:, :, AWQ_PLACES].reshape(len(words), -1)

    def rows(first: int, last: int, columns: slice) -> np.ndarray:
        return unpacked(packed.qweight.part(0, first, last))[:, columns]

    return _tensor(packed, (inputs, outputs), group_of, rows, lambda: unpacked(_whole(packed.qzeros)), kept)


def _groups(packed: Packed, inputs: int, outputs: int) -> np.ndarray:
    """The group of each input. Raises UserError where shapes do not go together."""
    size = inputs if packed.group_size == -1 else packed.group_size
    count = -(-inputs // size) if inputs else 0
    expected = {"qzeros": (count, outputs // packed.per_word), "scales": (count, outputs)}
    for tensor, shape in zip((packed.qzeros, packed.scales), expected.values(), strict=True):
        if tensor.shape != shape or outputs % packed.per_word:
            raise UserError(
                f"{tensor.name} in {tensor.file} is {list(tensor.shape)}; {packed.qweight.name} "
                f"{list(packed.qweight.shape)} of {packed.bits} bits, in groups of {size}, needs {list(shape)}"
            )
    if packed.groups is None:
        return np.arange(inputs) // size
    stated = packed.groups
    of_inputs = stated.part(0, 0, inputs) if stated.shape == (inputs,) and stated.dtype == np.int32 else None
    if of_inputs is None or of_inputs.min(initial=0) < 0 or of_inputs.max(initial=0) >= count:
        raise UserError(
            f"{stated.name} in {stated.file} does not name one of {count} groups for each of {inputs} inputs"
        )
    return of_inputs


def _tensor(
    packed: Packed,
    shape: tuple[int, int],
    group_of: np.ndarray,
    rows: Callable[[int, int, slice], np.ndarray],
    zeros: Callable[[], np.ndarray],
    kept: np.dtype,
) -> Tensor:
    """The weight, [out, in], of numbers that come [in, out]."""

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        inputs = (start, stop) if axis == 1 else (0, shape[0])
        columns = slice(start, stop) if axis == 0 else slice(0, shape[1])
        scale = _whole(packed.scales)[:, columns].astype(np.float32)
        zero = zeros()[:, columns]
        out = np.empty((inputs[1] - inputs[0], scale.shape[1]), np.float32)
        for first in range(*inputs, CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, inputs[1])
            group = group_of[first:last]
            out[first - inputs[0] : last - inputs[0]] = (rows(first, last, columns) - zero[group]) * scale[group]
        return out.T

    return Tensor(packed.name, shape[::-1], np.dtype(np.float32), packed.qweight.file, part, kept=kept)


def _bits(words: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """The numbers in each word, lowest first, along a new axis of size 1 there is for them."""
    shifts = np.arange(0, 32, bits, dtype=np.int32).reshape([-1 if place == axis else 1 for place in range(3)])
    return (words >> shifts) & np.int32(2**bits - 1)


def _whole(tensor: Tensor) -> np.ndarray:
    return tensor.part(0, 0, tensor.shape[0])

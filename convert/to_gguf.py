"""A GGUF file under a series plan, written as another: its tensors byte for byte, none of them dequantised."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.gguf_files import MAGIC, SPLITS, GgufFile, GgufTensor, is_gguf, read_gguf
from convert.gguf_layers import WITH_HALVES, layer_of_key, layer_of_tensor, require_movable, residuals
from convert.halves import Assembled, assembled, whole
from jaxpaint.base.disk import require_room
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.files import new_file, require_new_file
from jaxpaint.models.checkpoint import Progress
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from gguf import ReaderField

PIECE = 1 << 22  # bytes in memory at once
STRING = 8  # GGUF's number for the type
# Arrays that have one entry for each layer, where they are arrays.
_HEADS = ("attention.head_count", "attention.head_count_kv")
PER_LAYER = ("feed_forward_length", "attention.sliding_window_pattern", *_HEADS)


def export_gguf(
    source: str | Path,
    destination: str | Path,
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a GGUF file whose layers are those of a series plan, dropped, repeated or reordered; returns its path.

    Tensors keep their quantised bytes and keys their values, but for what counts or lists layers, the name, the size,
    and what tells of the plan: `jaxpaint.layer_plan` and `jaxpaint.source`. A sublayer is a layer whose other half's
    output is zeros, in every type zero bytes, or half of a layer with the sublayer that follows. A source in parts is
    given by its first and becomes one file. Memory holds what the source says and a few MB of its tensors.

    Raises:
        UserError: a plan that runs layers in parallel or names one that the model lacks; an architecture whose layers
            depend on their place; no GGUF file, or a damaged one; a destination that is there already.
    """
    source, destination = Path(source), Path(destination)
    require_destination(source, destination, overwrite=overwrite)
    model = read_gguf(source)
    if any(_is_same(file, destination) for file in model.files):
        raise UserError(f"{destination} is the model itself; choose another name")
    layers = exported_layers(model, plan)
    tensors = list(_arranged(model, layers))
    header = _header(model, plan, layers, tensors)
    total, done = sum(entry.tensor.size for entry in tensors), 0
    with new_file(destination, overwrite=overwrite, replaces=is_gguf) as file:
        require_room(destination.absolute().parent, len(header) + total, "the export")
        file.write(header)
        for entry in tensors:
            for piece in _pieces(entry):
                file.write(piece)
                done += len(piece)
                if progress:
                    progress(f"writing {destination.name}", done, total)
            file.write(_padding(entry.tensor.size, model.alignment))
    return destination


def require_destination(source: Path, destination: Path, *, overwrite: bool) -> None:
    """Raises UserError for a destination that is no new name of a GGUF file."""
    if destination.suffix != ".gguf":
        raise UserError(f"{source} is a GGUF file, and so is what is exported of it: name it {destination}.gguf")
    if _is_same(source, destination):
        raise UserError(f"{destination} is the model itself; choose another name")
    require_new_file(destination, overwrite=overwrite, replaces=is_gguf)


def exported_layers(model: GgufFile, plan: Plan) -> tuple[Assembled, ...]:
    """The layers that a plan makes of a model. Raises UserError where there can be none."""
    architecture = model.architecture
    if (kind := model.value("general.type")) not in (None, "model"):
        raise UserError(f"{model.file} is no model but, by its general.type, {str(kind)[:40]!r}")
    num_layers = model.count(f"{architecture}.block_count")
    plan.validate(num_layers)
    if not plan.is_series:
        raise UserError(
            f"only series plans can be exported: a GGUF file has no layers side by side, as {plan} has; "
            "jaxpaint serve runs them, of the model's checkpoint"
        )
    if plan.shares_norms:
        raise UserError(f"a GGUF file has no feed-forwards that share norms, as {plan} has")
    if plan.has_sublayers and architecture not in WITH_HALVES:
        plan.of_whole_layers(f"exporting a GGUF file of {architecture}")
    layers = assembled(plan, residuals(model)) if plan.has_sublayers else whole(plan.sequence())
    require_movable(model, [layer.kind for layer in layers], num_layers)
    return layers


@dataclass(frozen=True)
class _Entry:
    """A tensor to write, under its new name, and whether of zeros."""

    name: str
    tensor: GgufTensor
    zeros: bool = False


def _arranged(model: GgufFile, layers: Sequence[Assembled]) -> Iterator[_Entry]:
    """What comes before the layers, they, and the rest."""
    before: list[_Entry] = []
    after: list[_Entry] = []
    of_layers: dict[int, dict[str, GgufTensor]] = {}
    for name, tensor in model.tensors.items():
        if found := re.fullmatch(r"blk\.(\d{1,9})\.(.+)", name):
            of_layers.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            (after if of_layers else before).append(_Entry(name, tensor))
    yield from before
    for new, layer in enumerate(layers):
        yield from _of_layer(model, new, layer, of_layers)
    yield from after


def _of_layer(
    model: GgufFile, new: int, layer: Assembled, of_layers: Mapping[int, Mapping[str, GgufTensor]]
) -> Iterator[_Entry]:
    has_zeros = False
    for old in dict.fromkeys(half for half in (layer.attention, layer.mlp) if half is not None):
        if not of_layers.get(old):
            raise UserError(f"{model.file} is damaged: it has no tensors of layer {old}")
        for name, tensor in of_layers[old].items():
            own, zeros = layer_of_tensor(name, layer)
            if own == old:
                yield _Entry(f"blk.{new}.{name}", tensor, zeros)
                has_zeros |= zeros
    if None in (layer.attention, layer.mlp) and not has_zeros:
        raise UserError(f"{model.file}: layer {layer.kind} has no output that could be zeros; name whole layers")


def _header(model: GgufFile, plan: Plan, layers: Sequence[Assembled], tensors: Sequence[_Entry]) -> bytes:
    """All before the tensors' data."""
    order = _order(model)
    pairs = _pairs(model, plan, layers, tensors)
    infos, offset = [], 0
    for entry in tensors:
        infos.append(_string(entry.name, order) + entry.tensor.header + struct.pack(f"{order}Q", offset))
        offset += entry.tensor.size + len(_padding(entry.tensor.size, model.alignment))
    counts = struct.pack(f"{order}QQ", len(tensors), len(pairs))
    header = b"".join((MAGIC, model.version, counts, *pairs, *infos))
    return header + _padding(len(header), model.alignment)


def _pairs(model: GgufFile, plan: Plan, layers: Sequence[Assembled], tensors: Sequence[_Entry]) -> list[bytes]:
    """Keys with their values, as they are in the source but for what the plan changes."""
    architecture, order = model.architecture, _order(model)
    count = f"{architecture}.block_count"
    num_layers = model.count(count)
    texts = {
        "general.name": f"{model.value('general.name') or model.file.stem} ({plan})",
        "jaxpaint.layer_plan": str(plan),
        "jaxpaint.source": model.file.name,
    }
    if "general.size_label" in model.fields:
        texts["general.size_label"] = _size_label(architecture, tensors)
    pairs = {}
    for key, field in model.fields.items():
        if key in SPLITS or key in texts:
            continue
        length = model.array_length(key) if key.startswith(f"{architecture}.") else None
        if length is not None and length != num_layers and key.removeprefix(f"{architecture}.") in PER_LAYER:
            raise UserError(f"{model.file} is damaged: {key} has {length} entries for {num_layers} layers")
        if key == count:
            *kept, value = field.parts
            pairs[key] = _joined(kept) + np.array([len(layers)], value.dtype).tobytes()
        elif length == num_layers:
            pairs[key] = _rearranged(field, [layer_of_key(key, layer) for layer in layers], order)
        else:
            pairs[key] = _joined(field.parts)
    written = {
        key: _string(key, order) + struct.pack(f"{order}I", STRING) + _string(text, order)
        for key, text in texts.items()
    }
    return list({**{key: b"" for key in model.fields if key not in SPLITS}, **pairs, **written}.values())


def _rearranged(field: ReaderField, layers: Sequence[int], order: str) -> bytes:
    """An array of numbers: its key and types, how many, and those of the layers."""
    first = field.data[0]
    *kept, _ = field.parts[:first]
    entries = [field.parts[field.data[layer]].tobytes() for layer in layers]
    return _joined(kept) + struct.pack(f"{order}Q", len(layers)) + b"".join(entries)


def _size_label(architecture: str, tensors: Sequence[_Entry]) -> str:
    """How many parameters there are now, as GGUF files say it."""
    import gguf

    counter = gguf.GGUFWriter(None, architecture)
    for entry in tensors:
        type_ = gguf.GGMLQuantizationType(entry.tensor.type)
        counter.add_tensor_info(entry.name, entry.tensor.shape, np.dtype(np.float32), entry.tensor.size, type_)
    return gguf.size_label(*counter.get_total_parameter_count())


def _pieces(entry: _Entry) -> Iterator[bytes]:
    """The bytes of a tensor. They are read, not mapped: a file that shrinks meanwhile ends no process."""
    tensor = entry.tensor
    if entry.zeros:
        for start in range(0, tensor.size, PIECE):
            yield bytes(min(PIECE, tensor.size - start))
        return
    try:
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            for start in range(0, tensor.size, PIECE):
                piece = file.read(min(PIECE, tensor.size - start))
                if len(piece) < min(PIECE, tensor.size - start):
                    raise UserError(f"{tensor.file} was changed while it was read")
                yield piece
    except OSError as error:
        raise UserError(f"{tensor.file} cannot be read: {error.strerror or first_line(error)}") from error


def _padding(size: int, alignment: int) -> bytes:
    return bytes(-size % alignment)


def _string(text: str, order: str) -> bytes:
    encoded = text.encode()
    return struct.pack(f"{order}Q", len(encoded)) + encoded


def _joined(parts: Sequence[np.ndarray]) -> bytes:
    return b"".join(part.tobytes() for part in parts)


def _order(model: GgufFile) -> str:
    """The file's order of bytes, as `struct` has it."""
    return "<" if (sys.byteorder == "little") != model.is_swapped else ">"


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False

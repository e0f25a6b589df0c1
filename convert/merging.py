"""LoRA adapters merged into a checkpoint's weights, a part of a tensor at a time, as conversion reads them.

W becomes W + scale * B A, with scale = lora_alpha / r or, with use_rslora, lora_alpha / sqrt(r), in float32: as
`merge_and_unload` of peft has it (`peft.tuners.lora.layer.Linear.merge`, `get_delta_weight`; arXiv 2106.09685, section
4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convert.adapters import MERGE, Adapter, Update
from convert.names import canonical_name
from convert.tensors import Tensor, abbreviated
from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Names, Weight

CHUNK_ROWS = 256


def merged(
    tensors: Mapping[str, Tensor], adapter: Adapter, weights: Sequence[Weight], names: Names
) -> dict[str, Tensor]:
    """A model's tensors with an adapter's updates in them, read and added as they are asked for, in float32.

    `tensors` are by their canonical names (`convert.to_store.architecture`), `weights` the family's parameters.

    Raises:
        UserError: a module that the model lacks or that is no linear layer, other sizes, or one that is targeted and
            has no update.
    """
    found = dict(tensors)
    kernels = [weight for weight in weights if weight.path.endswith("/kernel")]
    of_model = f"; {adapter.folder.name} was trained on {adapter.base or 'a model that it does not name'}"
    taken = set()
    for module, update in adapter.updates.items():
        name = canonical_name(f"{module}.weight", names)
        weight = next((each for each in kernels if _is_of(name, each)), None)
        if name not in found or weight is None:
            tied = ", which is tied to the embedding: peft would change both" if name == names.head else ""
            raise UserError(
                f"the adapter changes {module}, and the model has no linear layer of that name{tied or of_model}"
                + (f"; {MERGE}" if tied else "")
            )
        if name in taken:
            raise UserError(f"the adapter changes {name} twice")
        taken.add(name)
        found[name] = _updated(found[name], update, weight.transposed, of_model)
        if update.bias is not None:
            bias = canonical_name(f"{module}.bias", names)
            if bias not in found:
                raise UserError(f"the adapter has a lora_bias for {module}, which has no bias to add it to{of_model}")
            found[bias] = _added(found[bias], update.bias, update.scale, of_model)
    for name, tensor in adapter.biases.items():
        bias = canonical_name(name, names)
        if bias not in found or found[bias].shape != tensor.shape:
            has = list(found[bias].shape) if bias in found else "none"
            raise UserError(f"the adapter has {name} {list(tensor.shape)}, and the model {has} of that name{of_model}")
        own = adapter.updates.get(name.removesuffix(".bias").removesuffix(".base_layer"))
        found[bias] = _added(tensor, own.bias, own.scale, of_model) if own and own.bias else tensor
    in_layers = [name for name in tensors if any(each.stacked and _is_of(name, each) for each in kernels)]
    _require_all(adapter, in_layers, taken)
    return found


def _is_of(name: str, weight: Weight) -> bool:
    """Whether a tensor's name is that of a parameter, in whichever layer."""
    before, placed, after = weight.name.partition("{layer}")
    if not placed:
        return name == weight.name
    return name.startswith(before) and name.endswith(after) and name[len(before) : -len(after)].isdigit()


def _updated(base: Tensor, update: Update, out_first: bool, of_model: str) -> Tensor:
    """The weight, [out, in] or, where not `out_first`, [in, out], with scale * B A added."""
    shape = (update.b.shape[0], update.a.shape[1])
    if base.shape != (shape if out_first else shape[::-1]):
        raise UserError(
            f"the adapter's update of {base.name} is {list(shape)} ([out, in]), and the weight is {list(base.shape)} "
            f"in {base.file}{of_model}"
        )

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        weight = base.part(axis, start, stop).astype(np.float32)
        a, b = _whole(update.a), _whole(update.b)
        left, right = (b, a) if out_first else (a.T, b.T)
        left, right = (left[start:stop], right) if axis == 0 else (left, right[:, start:stop])
        for row in range(0, len(weight), CHUNK_ROWS):  # so that no second matrix of this size is held
            rows = slice(row, row + CHUNK_ROWS)
            weight[rows] += left[rows] @ right * np.float32(update.scale)
        return weight

    return Tensor(base.name, base.shape, np.dtype(np.float32), base.file, part, kept=base.kept or base.dtype)


def _added(base: Tensor, bias: Tensor, scale: float, of_model: str) -> Tensor:
    if base.shape != bias.shape:
        raise UserError(f"the adapter's {bias.name} is {list(bias.shape)}, and the bias {list(base.shape)}{of_model}")

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        return base.part(axis, start, stop).astype(np.float32) + bias.part(axis, start, stop).astype(
            np.float32
        ) * np.float32(scale)

    return Tensor(base.name, base.shape, np.dtype(np.float32), base.file, part, kept=base.kept or base.dtype)


def _whole(tensor: Tensor) -> np.ndarray:
    return tensor.part(0, 0, tensor.shape[0]).astype(np.float32)


def _require_all(adapter: Adapter, kernels: Iterable[str], taken: set[str]) -> None:
    """Raises UserError where a layer's module that the adapter targets has no update, as in a damaged file.

    peft would leave it as it is. Targets that name no module are passed over, as in peft.
    """
    ends = tuple(f".{target}.weight" for target in adapter.targets)
    lacking = [name for name in kernels if name not in taken and f".{name}".endswith(ends)] if ends else []
    if lacking:
        raise UserError(
            f"{adapter.folder} has no update for {abbreviated(lacking)}, which its target_modules name; it is "
            "damaged, or was trained on another model"
        )

"""How parameters and batches lie on several devices: rows over the `data` axis, weights over the `model` axis."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpaint.base.errors import UserError

DATA, MODEL = "data", "model"
# Megatron's split (arXiv 1909.08053): the output features of what enters a block's inner width, the input features
# of what leaves it, and the vocabulary.
SPLIT_OUTPUT = (
    *("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"),
    *("query_key_value", "dense_h_to_4h"),
    *("query", "key", "value", "intermediate"),
)
SPLIT_INPUT = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "output")


def device_mesh(tensor_parallel: int = 1) -> Mesh | None:
    """All devices, each weight split over `tensor_parallel` of them; None where there is one device.

    Raises:
        UserError: the devices do not divide so.
    """
    count = jax.device_count()
    if tensor_parallel < 1 or count % tensor_parallel:
        raise UserError(f"{count} devices cannot be split into groups of {tensor_parallel} that share each weight")
    if count == 1:
        return None
    return jax.make_mesh((count // tensor_parallel, tensor_parallel), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def parameter_sharding(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Where each parameter lies, by its path (`blocks/mlp/up_proj/kernel`) and shape.

    An axis that the devices do not divide evenly is kept whole on each of them.
    """

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        names = path.split("/")
        axis = None
        if names[-1] == "embedding":
            axis = 0
        elif any(name in SPLIT_OUTPUT for name in names):
            axis = len(shape) - 1
        elif any(name in SPLIT_INPUT for name in names) and names[-1] == "kernel":
            axis = len(shape) - (3 if len(shape) == 4 else 2)  # int4: [layers, of a group, groups, out]
        if axis is None or shape[axis] % mesh.shape[MODEL]:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*(MODEL if i == axis else None for i in range(len(shape)))))

    return sharding


def rows(mesh: Mesh) -> NamedSharding:
    """Leading axis over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))

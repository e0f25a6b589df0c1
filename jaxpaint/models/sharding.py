"""How parameters and batches lie on several devices: rows over the `data` axis, weights over the `model` axis.

A third axis, `layer`, is there when it is asked for: the members of a parallel group are dealt out over it
(`jaxpaint.engine.lanes`). Each place along it is a lane, and has all parameters and all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpaint.base.errors import UserError

DATA, MODEL, LAYER = "data", "model", "layer"
# Megatron's split (arXiv 1909.08053): the output features of what enters a block's inner width, the input features
# of what leaves it, and the vocabulary.
SPLIT_OUTPUT = (
    *("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"),
    *("query_key_value", "dense_h_to_4h", "qkv_proj", "gate_up_proj"),
    *("query", "key", "value", "intermediate"),
    *("c_attn", "c_fc"),
)
SPLIT_INPUT = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "output", "c_proj")


def device_mesh(tensor_parallel: int = 1, layer_parallel: int = 1) -> Mesh | None:
    """All devices, each weight split over `tensor_parallel` of them; None where there is one device.

    The members of parallel groups run on `layer_parallel` lanes; what devices are left share the rows.

    Raises:
        UserError: the devices do not divide so.
    """
    shape = mesh_shape(jax.device_count(), tensor_parallel, layer_parallel)
    if jax.device_count() == 1:
        return None
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def mesh_shape(devices: int, tensor_parallel: int, layer_parallel: int = 1) -> dict[str, int]:
    """The axes of a mesh of so many devices, those that share a weight next to each other.

    Without lanes there is no axis for them. Raises UserError where the devices do not divide so.
    """
    if tensor_parallel < 1 or devices % tensor_parallel:
        raise UserError(f"{devices} devices cannot be split into groups of {tensor_parallel} that share each weight")
    groups = devices // tensor_parallel
    if layer_parallel < 1 or groups % layer_parallel:
        raise UserError(
            f"{devices} devices cannot be split into {layer_parallel} lanes of {tensor_parallel} for the layers of "
            "parallel groups"
        )
    if layer_parallel == 1:
        return {DATA: groups, MODEL: tensor_parallel}
    return {DATA: groups // layer_parallel, LAYER: layer_parallel, MODEL: tensor_parallel}


def lanes(mesh: Mesh | None) -> int:
    """Over how many lanes the members of parallel groups are dealt out."""
    return mesh.shape.get(LAYER, 1) if mesh else 1


def with_lanes(mesh: Mesh | None) -> Mesh | None:
    """The mesh, where it has lanes: what a program without them need not know is no reason to compile again."""
    return mesh if lanes(mesh) > 1 else None


def by_lane(mesh: Mesh) -> NamedSharding:
    """Leading axis over the lanes."""
    return NamedSharding(mesh, PartitionSpec(LAYER))


def each_lane(mesh: Mesh, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` of every lane's own part of its arguments; the compiler goes on splitting over the other axes."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names={LAYER}, check_vma=False
    )


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
            in_groups = len(shape) - ("experts" in names) == 4  # int4: [layers, of a group, groups, out]
            axis = len(shape) - (3 if in_groups else 2)
        if axis is None or shape[axis] % mesh.shape[MODEL]:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*(MODEL if i == axis else None for i in range(len(shape)))))

    return sharding


def with_kernels_on_host(
    place: Callable[[str, tuple[int, ...]], Any],
) -> Callable[[str, tuple[int, ...]], Any]:
    """`place`, but that layers' kernels lie in the host's memory, from which each comes when its layer runs.

    What is small stays: a TPU takes no row out of a stack of vectors there.
    """

    def sharding(path: str, shape: tuple[int, ...]) -> Any:
        found = place(path, shape)
        return found.with_memory_kind("pinned_host") if path.startswith("blocks/") and len(shape) > 2 else found

    return sharding


def placed(parameters: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Nested parameters where `parameter_sharding` has them."""
    place = parameter_sharding(mesh)

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        return jax.device_put(leaf, place("/".join(str(key.key) for key in path), leaf.shape))

    return jax.tree_util.tree_map_with_path(put, parameters)


def rows(mesh: Mesh) -> NamedSharding:
    """Leading axis over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))

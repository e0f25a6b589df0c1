"""Arms over devices: each trains its share of them, and nothing passes between them. A CPU's cores may be devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from jaxpaint.base.machine import machine
from jaxpaint.birth.arms import Arms

ARMS = "arms"
BY_ARM: Any = PartitionSpec(ARMS)
BY_RECORD: Any = PartitionSpec(None, ARMS)
ALL: Any = PartitionSpec()
OF_DATA = Arms(
    events=BY_ARM,
    release=BY_ARM,
    everywhere=BY_ARM,
    weight_seeds=BY_ARM,
    stored=BY_ARM,
    stream=BY_ARM,
    sources=ALL,
    tests=ALL,
    data_seeds=ALL,
)


class State(NamedTuple):
    """All arms' trained parameters and moments after a number of steps, with all that was measured so far.

    `maps` are of the first arm of each device's share.
    """

    done: Int[Array, ""]
    parameters: PyTree[Shaped[Array, "A ..."]]
    moments: PyTree[Shaped[Array, "A ..."]]
    steps: dict[str, Shaped[Array, "steps A"]]
    measured: dict[str, Shaped[Array, "records A"]]
    watched: dict[str, Shaped[Array, "records A"]]
    maps: dict[str, Shaped[Array, "devices records S S"]]


OF_STATE = State(ALL, BY_ARM, BY_ARM, BY_RECORD, BY_RECORD, BY_RECORD, BY_ARM)


def cores_as_devices(most: int) -> None:
    """Makes each of a CPU's cores a device of JAX's, `most` of them; nothing where JAX runs, or was told how many."""
    told = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not told:
        with suppress(RuntimeError):  # it runs already
            jax.config.update("jax_num_cpu_devices", max(1, min(most, machine().cores)))


def mesh_of(arms: int) -> Mesh:
    """All devices, or as many as there are arms."""
    devices = jax.devices()
    return Mesh(np.array(devices[: min(arms, len(devices))]), (ARMS,))


def each(mesh: Mesh, run: Callable[..., State]) -> Callable[[Arms, Any, Any, State], State]:
    """`run(data, frozen, shared, state)` on every device with its share of the arms, and all of what is shared."""
    specs = (OF_DATA, BY_ARM, ALL, OF_STATE)
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=OF_STATE, check_vma=False)


def widened(state: State, arms: int, mesh: Mesh) -> State:
    """A state of fewer arms with its last one repeated, laid out over the devices."""

    def padded(leaf: Array, axis: int) -> Array:
        more = [(0, arms - leaf.shape[axis] if number == axis else 0) for number in range(leaf.ndim)]
        return jnp.pad(leaf, more, mode="edge")

    maps = {name: jnp.repeat(map_[:1], mesh.size, axis=0) for name, map_ in state.maps.items()}
    whole = _along(state._replace(maps=maps), padded)
    where = jax.tree.map(lambda spec, part: jax.tree.map(lambda _: NamedSharding(mesh, spec), part), OF_STATE, whole)
    return jax.device_put(whole, where)


def narrowed(state: State, arms: int) -> State:
    """The first arms of a state, on one device: the same wherever it was trained."""

    def cut(leaf: Array, axis: int) -> Array:
        return leaf[:arms] if axis == 0 else leaf[:, :arms]

    first = _along(state._replace(maps={name: map_[:1] for name, map_ in state.maps.items()}), cut)
    return jax.device_put(first, jax.devices()[0])


def _along(state: State, change: Callable[[Array, int], Array]) -> State:
    """The state with `change(leaf, axis of arms)` of all that has one."""
    by_arm, by_record = (lambda leaf: change(leaf, 0)), (lambda leaf: change(leaf, 1))
    return state._replace(
        parameters=jax.tree.map(by_arm, state.parameters),
        moments=jax.tree.map(by_arm, state.moments),
        steps=jax.tree.map(by_record, state.steps),
        measured=jax.tree.map(by_record, state.measured),
        watched=jax.tree.map(by_record, state.watched),
    )

"""Kinds of accelerators: what their makers say of them, and devices to compile for where there are none."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclass(frozen=True)
class Kind:
    """One chip: bytes that a program may use, bfloat16 operations and bytes of memory a second (its maker's figures).

    `topology` is the smallest that the compiler knows. `clock` is that which the TPU compiler's cycles count, in hertz,
    derived from the operations; None where there is no cost model.
    """

    name: str
    platform: str
    memory: int
    flops: float
    bandwidth: float
    topology: str
    clock: float | None = None


_GIB = 1 << 30
KINDS = {
    kind.name: kind
    for kind in (
        # v5e's clock is derived: 197 TFLOP/s are 4 units of 128 x 128 at 1.5 GHz.
        Kind("v5e", "tpu", int(15.75 * _GIB), 197e12, 819e9, "2x2", 1.5e9),
        Kind("v6e", "tpu", int(31.25 * _GIB), 918e12, 1640e9, "2x2", 1.75e9),
        Kind("v5p", "tpu", int(95 * _GIB), 459e12, 2765e9, "2x2x1", 1.75e9),
        Kind("h100", "gpu", 84942979072, 989e12, 3352e9, "1x1x1"),
    )
}


@dataclass(frozen=True)
class Target:
    """So many chips of a kind, as a name such as `v5e`, `v5e:2x2` or `h100:4` says."""

    kind: Kind
    topology: str
    chips: int

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises UserError for what is no kind of device, or no number of chips."""
        name, colon, size = text.partition(":")
        kind = KINDS.get(name)
        if kind is None:
            raise UserError(f"{name!r} is no kind of device that programs can be compiled for: {', '.join(KINDS)}")
        if not colon:
            return cls(kind, kind.topology, 1)
        sides = size.split("x")
        if not all(side.isascii() and side.isdigit() and 0 < int(side) <= 256 for side in sides):
            raise UserError(f"{text!r}: give chips as {name}:{kind.topology}, or {name} for one")
        chips = 1
        for side in sides:
            chips *= int(side)
        return cls(kind, size if kind.platform == "tpu" else f"1x1x{chips}", chips)

    def mesh(self, tensor_parallel: int, layer_parallel: int = 1) -> Mesh:
        """The devices as `jaxpaint.models.sharding.device_mesh` has them; nothing can run on them.

        Raises:
            UserError: the compiler knows no such topology, or the devices do not divide so.
        """
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh

        from jaxpaint.models.sharding import mesh_shape

        shape = mesh_shape(self.chips, tensor_parallel, layer_parallel)
        try:
            devices = _devices(self.kind.name, self.topology)
        except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
            message = str(error).strip().splitlines()[0]
            raise UserError(f"no devices {self.kind.name}:{self.topology} to compile for: {message}") from error
        chosen = np.array(devices[: self.chips]).reshape(*shape.values())
        return Mesh(chosen, tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def prepare(kind: Kind) -> None:
    """What the compilers read when JAX starts. Call it before. Raises UserError where the kind's is not installed."""
    extra = "tpu-aot" if kind.platform == "tpu" else "cuda-aot"
    needed = "libtpu" if kind.platform == "tpu" else "jax_cuda12_plugin"
    if importlib.util.find_spec(needed) is None:
        raise UserError(
            f"the compiler for {kind.name} is not installed; pip install 'jaxpaint[{extra}]' (about 220 MB)"
        )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # their remarks about a device that is not here
    if kind.platform == "tpu":
        # Else libtpu asks the machine's metadata server which TPU it is, and waits.
        for name, value in (
            ("TPU_SKIP_MDS_QUERY", "1"),
            ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
            ("TPU_WORKER_HOSTNAMES", "localhost"),
            ("TPU_WORKER_ID", "0"),
            ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # no device is taken, so several may compile at once
        ):
            os.environ.setdefault(name, value)
        return
    compiler = _cuda_compiler()
    os.environ["PATH"] = f"{compiler / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    # There is no device to try tilings on.
    flags = f"--xla_gpu_cuda_data_dir={compiler} --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def _cuda_compiler() -> Path:
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "cuda_nvcc" / "bin").is_dir():
            return Path(place) / "cuda_nvcc"
    raise UserError("CUDA's compiler is not installed; pip install 'jaxpaint[cuda-aot]'")


@cache
def _devices(name: str, topology: str) -> tuple[Any, ...]:
    from jax.experimental import topologies

    if KINDS[name].platform == "tpu":
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{topology}").devices)
    described = topologies.get_topology_desc(name, platform="cuda", target_config=H100, topology=topology)
    return tuple(described.devices)


def _rates(rates: dict[int, tuple[float, int, int]]) -> str:
    return "".join(
        f"rate_infos {{ key: {key} value {{ clock_rate_ghz: {clock} units_per_core: {units} ops_per_clock: {ops} }} }} "
        for key, (clock, units, ops) in rates.items()
    )


_SCALAR = {4: (1.98, 64, 1), 8: (1.98, 64, 1), 10: (1.98, 128, 2), 11: (1.98, 128, 1), 12: (1.98, 64, 1)}
_MATRIX = {2: (1.8295, 4, 1024), 6: (1.8295, 4, 1024), 10: (1.8295, 4, 512), 11: (1.8295, 4, 256), 12: (1.98, 4, 32)}
# XLA's GpuTargetConfigProto of an H100 SXM, as text.
H100 = f"""gpu_device_info {{
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
registers_per_core_limit: 65536 registers_per_block_limit: 65536
scalar_unit_description {{ {_rates({**_SCALAR, 16: (1.98, 128, 2)})} }}
matrix_unit_description {{ {_rates({**_MATRIX, 16: (1.8295, 4, 512)})} }}
thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 device_vendor: "NVIDIA Corporation"
device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true name: "NVIDIA H100 80GB HBM3"
driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
cub_version: "3.1.2" device_interconnect_info {{ active_links: 18 }} }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "NVIDIA H100 80GB HBM3"
"""

"""What this process may use of the machine it runs on: processor cores, memory, and what a container leaves of them."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.cgroups import memory_cgroups

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Machine:
    """Cores that the process may run on, and memory in bytes; None where the system does not say.

    `memory_limit` is the lowest that a cgroup (a container, a batch system's job) sets, None without one.
    """

    cores: int
    memory: int | None
    memory_available: int | None
    memory_limit: int | None
    nvidia_gpu: bool


def machine() -> Machine:
    """The machine as this process sees it now."""
    memory, available = _memory()
    limit = _memory_limit()
    limit = None if limit is not None and memory is not None and limit >= memory else limit
    # Seen by its tool or its driver, without starting either.
    nvidia_gpu = shutil.which("nvidia-smi") is not None or NVIDIA.is_dir()
    return Machine(_cores(), memory, available, limit, nvidia_gpu)


def processor() -> str:
    """The processor's model, as its maker names it; else its architecture."""
    try:
        rows = (line.partition(":") for line in CPUINFO.read_text().splitlines())
        models = [value.strip() for name, _, value in rows if name.strip() == "model name"]
    except OSError:  # not Linux
        models = []
    return next(filter(None, models), platform.processor() or platform.machine() or "unknown processor")


@functools.cache
def instructions() -> frozenset[str]:
    """What the processor has beyond the least of its kind, as Linux names it (`avx512f`); empty where nothing says."""
    try:
        rows = (line.partition(":") for line in CPUINFO.read_text().splitlines())
        return frozenset(next((value.split() for name, _, value in rows if name.strip() == "flags"), []))
    except OSError:  # not Linux
        return frozenset()


def multiplies_bfloat16() -> bool:
    """Whether the processor is known to have instructions for products of bfloat16."""
    return not instructions().isdisjoint({"avx512_bf16", "amx_bf16"})


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what taskset, a batch system or a container leaves
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int | None, int | None]:
    try:
        rows = (line.split() for line in MEMINFO.read_text().splitlines())
        kibibytes = {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
        return kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024
    except (OSError, KeyError):  # not Linux
        names = os.sysconf_names
        if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
        return None, None


def _memory_limit() -> int | None:
    limits = (cgroup.memory_limit for cgroup in memory_cgroups(OWN_CGROUPS, CGROUPS))
    return min((limit for limit in limits if limit is not None), default=None)

"""How much memory this process may still have, and what needs more, told before the kernel kills the process for it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

from jaxpaint.base.cgroups import Cgroup, memory_cgroups
from jaxpaint.base.errors import UserError
from jaxpaint.base.kernel_files import read_kernel_file

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# What the kernel takes back before it kills: pages of files, memory-mapped ones included, and its own caches.
_RECLAIMABLE = {
    2: ("inactive_file", "active_file", "slab_reclaimable"),
    1: ("total_inactive_file", "total_active_file"),
}


def memory_left(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that this process may still have; None where the system does not say (macOS, Windows).

    The least of what the machine has available, what the cgroups around the process leave, and its limits of
    addresses and data (`ulimit -v`, `-d`). Swap counts as memory.
    """
    return min((max(0, each) for each in (*_killed_beyond(proc, cgroups), *_refused_beyond(proc))), default=None)


def left_alive(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """As `memory_left`, but only of what the kernel kills a process for: the machine's memory and its cgroups'."""
    return min((max(0, each) for each in _killed_beyond(proc, cgroups)), default=None)


def _killed_beyond(proc: Path, cgroups: Path) -> Iterator[int]:
    machine = _kibibytes(proc / "meminfo")
    swap = machine.get("SwapFree", 0)
    if "MemAvailable" in machine:
        yield machine["MemAvailable"] + swap
    for cgroup in memory_cgroups(proc / "self" / "cgroup", cgroups):
        yield from _cgroup_left(cgroup, swap)


def _refused_beyond(proc: Path) -> Iterator[int]:
    used = _kibibytes(proc / "self" / "status")
    for limit, name in (("Max address space", "VmSize"), ("Max data size", "VmData")):
        soft = _soft_limit(proc / "self" / "limits", limit)
        if soft is not None and name in used:
            yield soft - used[name]


def _cgroup_left(cgroup: Cgroup, swap: int) -> Iterator[int]:
    stat = cgroup.numbers("memory.stat")
    reclaimable = sum(stat.get(name, 0) for name in _RECLAIMABLE[cgroup.version])
    limit = cgroup.memory_limit
    used = cgroup.number("memory.current" if cgroup.version == 2 else "memory.usage_in_bytes")
    if limit is not None and used is not None:
        most = cgroup.number("memory.swap.max") if cgroup.version == 2 else None
        if most is not None:
            swap = min(swap, max(0, most - (cgroup.number("memory.swap.current") or 0)))
        yield limit - used + reclaimable + swap
    if cgroup.version == 1:  # which limits memory and swap together
        both, used = cgroup.number("memory.memsw.limit_in_bytes"), cgroup.number("memory.memsw.usage_in_bytes")
        if both is not None and used is not None:
            yield both - used + reclaimable


def _kibibytes(file: Path) -> dict[str, int]:
    """The rows of a file that end in kB, in bytes."""
    try:
        rows = [line.split() for line in read_kernel_file(file).splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def _soft_limit(file: Path, name: str) -> int | None:
    try:
        lines = read_kernel_file(file).splitlines()
    except OSError:
        return None
    words = next((line.removeprefix(name).split() for line in lines if line.startswith(name)), ["unlimited"])
    return int(words[0]) if words[0].isdigit() else None


def give_back(generation: int = 2) -> None:
    """Returns freed memory to the system, which allocators keep for the next of its kind, and which counts as used.

    What lies in reference cycles is freed first: those of Python's garbage up to a generation, 2 for all.
    """
    gc.collect(generation)
    return_freed()


def return_freed() -> None:
    """As `give_back`, of what is free already."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def require_memory(needed: int, what: str, advice: str, *, addresses: int = 0) -> None:
    """Raises UserError where this process may not have so many bytes more, which `what` needs.

    `addresses` are those that it reserves beyond them: they count where the process's addresses are limited, above
    which native code aborts. `needed` should be the least that can do: a process that would have come through must not
    be stopped.
    """
    _require_addresses(needed + addresses, what)
    left = memory_left()
    if left is None or needed <= left:
        return
    give_back()
    left = memory_left()
    if left is not None and needed > left:
        raise UserError(
            f"{what} needs {needed / 1e9:.2f} GB of memory, and {left / 1e9:.2f} GB is left to this process; {advice}"
        )


def addresses_used_up() -> int | None:
    """The bytes of addresses that `ulimit -v` allows, where this process had nearly all; None where it did not.

    What failed for want of them asked for more than were left, so nearly is three quarters.
    """
    allowed, used = _soft_limit(PROC / "self" / "limits", "Max address space"), _kibibytes(PROC / "self" / "status")
    return allowed if allowed is not None and used.get("VmPeak", 0) > 0.75 * allowed else None


def _require_addresses(needed: int, what: str) -> None:
    allowed, used = _soft_limit(PROC / "self" / "limits", "Max address space"), _kibibytes(PROC / "self" / "status")
    if allowed is None or "VmSize" not in used or used["VmSize"] + needed <= allowed:
        return
    raise UserError(
        f"{what} needs {needed / 1e9:.2f} GB of addresses, and of the {allowed / 1e9:.2f} GB that ulimit -v allows "
        f"{used['VmSize'] / 1e9:.2f} GB are taken; allow about {(used['VmSize'] + needed) / 1e9:.1f} GB"
    )

"""The most memory that was in use at once: of the whole process on a CPU, of one device elsewhere."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.memory import give_back

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def begin() -> int:
    """Starts anew where the system can, after freed memory went back to it; the peak that counts for nothing, in bytes.

    Linux can, for a process. Elsewhere it is the peak so far, which only what needs more is told from.
    """
    if not on_cpu():
        return _so_far()
    give_back()
    with suppress(OSError):
        CLEAR.write_text("5")
        return 0
    return _so_far()


def since(begun: int) -> int | None:
    """Bytes at the peak since `begin` gave `begun`; None where the peak was higher before."""
    peak = _so_far()
    return peak if peak > begun else None


def _so_far() -> int:
    if not on_cpu():
        import jax

        statistics = [device.memory_stats() or {} for device in jax.local_devices()]
        return max(each.get("peak_bytes_in_use", 0) for each in statistics)
    with suppress(OSError, IndexError):
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

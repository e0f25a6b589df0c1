"""Which kernels a device ran, how often and how long, by JAX's own profiler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kernels:
    """Seconds and runs of each kernel of a device, and from the first one's start to the last one's end."""

    span: float
    seconds: dict[str, float]
    runs: dict[str, int]

    @property
    def busy(self) -> float:
        """Seconds in which a kernel ran, as far as they ran one after the other."""
        return sum(self.seconds.values())

    def longest(self, most: int) -> list[tuple[str, int, float]]:
        """`(name, runs, seconds)` of the kernels that took most."""
        names = sorted(self.seconds, key=self.seconds.__getitem__, reverse=True)[:most]
        return [(name, self.runs[name], self.seconds[name]) for name in names]


def kernel_times(run: Callable[[], Any]) -> Kernels | None:
    """What the first device ran while `run()` did; None where none says so (a CPU)."""
    import jax
    from jax.profiler import ProfileData

    run()  # compiles
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        found = sorted(Path(folder).rglob("*.xplane.pb"))
        planes = list(ProfileData.from_file(str(found[0])).planes) if found else []
        devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
        events = [
            event for plane in devices[:1] for line in plane.lines if "Stream" in line.name for event in line.events
        ]
        seconds: dict[str, float] = defaultdict(float)
        runs: dict[str, int] = defaultdict(int)
        for event in events:
            seconds[event.name] += event.duration_ns / 1e9
            runs[event.name] += 1
        if not events:
            return None
        span = max(event.end_ns for event in events) - min(event.start_ns for event in events)
        return Kernels(span / 1e9, dict(seconds), dict(runs))

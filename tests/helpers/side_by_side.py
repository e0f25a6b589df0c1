"""Commands that run as several processes at the same time, over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[2]
Ended: TypeAlias = list[tuple[int, str, str]]
"""Of each process the status and what it said, on standard output and error."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    # What is compared here is no speed: little is optimised.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    flags += f" --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def started(
    commands: Sequence[Sequence[object]], devices: int, folders: Sequence[Path] = ()
) -> list[subprocess.Popen[str]]:
    """The commands' processes, each of so many devices, in `folders` of their own where there are any."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(devices)}
    where = folders or [None] * len(commands)
    return [
        subprocess.Popen([*map(str, each)], cwd=folder, **pipes) for each, folder in zip(commands, where, strict=True)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> Ended:
    with ThreadPoolExecutor() as waiting:  # all are read at once: one that can't write would keep the others waiting
        said = list(waiting.map(lambda each: each.communicate(timeout=300), processes))
    return [(each.returncode, *texts) for each, texts in zip(processes, said, strict=True)]


def side_by_side(*commands: list[object], devices: int) -> Ended:
    """Commands side by side, to their end."""
    return ended(started(commands, devices))

"""Python code in a process of its own, whose caches lie in a folder of the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def start(code: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code` with the arguments, offline; what it says comes out of one pipe."""
    own = {"JAXPAINT_CACHE": folder / "cache", "HF_DATASETS_CACHE": folder / "datasets", "HF_HUB_OFFLINE": 1}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **{name: str(value) for name, value in own.items()}},
    )

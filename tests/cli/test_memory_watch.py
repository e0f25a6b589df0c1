"""A command that runs out of memory ends in a line, where the kernel would have killed it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxpaint.cli import memory_watch
from jaxpaint.cli.memory_watch import watched_memory

MACHINE = """
from jaxpaint.cli import memory_watch
looks = iter({looks})
memory_watch.left_alive = lambda: next(looks, 5_000_000)
memory_watch.SELDOM = 0.01
import time
with memory_watch.watched_memory():
    time.sleep({seconds})
print("came through")
"""
HOG = """
from jaxpaint.cli.memory_watch import watched_memory
held = []
with watched_memory():
    while True:
        held.append([object() for _ in range(1000)])
"""
CGROUPS = Path("/sys/fs/cgroup")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_it_ends_where_little_is_left() -> None:
    done = run(MACHINE.format(looks=[10**9] * 4, seconds=60))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jaxpaint: error: 5 MB of memory are left to this process")
    assert done.stderr.count("\n") == 1


def test_what_was_freed_is_returned_first() -> None:
    """A look that finds little is followed by one after freed memory went back."""
    looks = [10**9, 5_000_000, 10**9, *[10**9] * 1000]
    done = run(MACHINE.format(looks=looks, seconds=0.5))
    assert (done.returncode, done.stdout) == (0, "came through\n"), done.stderr


def test_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "left_alive", lambda: 10**12)
    before = threading.active_count()
    with watched_memory():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_system_that_does_not_say_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "left_alive", lambda: None)
    before = threading.active_count()
    with watched_memory():
        assert threading.active_count() == before


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A container of 200 MB without swap; its processes are listed in `cgroup.procs`."""
    first = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if first else CGROUPS) / f"jaxpaint-test-{os.getpid()}"
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first else ("memory.max", "memory.swap.max")
    try:
        folder.mkdir()
        (folder / limits[0]).write_text("200000000")
    except OSError:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip("no cgroup can be made here")
    if (folder / limits[1]).exists():
        (folder / limits[1]).write_text("200000000" if first else "0")
    yield folder
    folder.rmdir()


def test_in_a_container(cgroup: Path) -> None:
    enter = f"import os\nopen({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    done = run(enter + HOG)
    assert done.returncode == 2, done.stderr
    assert "MB of memory are left to this process" in done.stderr

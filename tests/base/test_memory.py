"""How much memory is left, by trees of files as the kernel shows them, and what is said where it does not suffice."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from jaxpaint.base import memory
from jaxpaint.base.errors import UserError
from jaxpaint.base.memory import left_alive, memory_left, require_memory

MACHINE = {"proc/meminfo": "MemTotal: 16000 kB\nMemAvailable: 8000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"}
UNLIMITED = {
    "proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\nMax data size  unlimited  unlimited  bytes\n"
    "Max address space         unlimited            unlimited            bytes     \n",
    "proc/self/status": "Name:\tpython\nVmSize:\t    2000 kB\nVmData:\t     500 kB\n",
}
ENDLESS = "9223372036854771712"


def tree(folder: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc", folder / "sys"


def second(folder: str, limit: str, used: int, stat: str = "", **more: str) -> dict[str, str]:
    files = {"memory.max": limit, "memory.current": str(used), "memory.stat": stat, **more}
    return {f"sys/{folder}{name}": text + "\n" for name, text in files.items()}


def first(folder: str, limit: str, used: int, stat: str = "", **more: str) -> dict[str, str]:
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": str(used), "memory.stat": stat, **more}
    return {f"sys/memory/{folder}{name}": text + "\n" for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        (MACHINE, 8_192_000),
        (MACHINE | UNLIMITED, 8_192_000),
        ({"proc/self/cgroup": "0::/\n"}, None),
        # The second generation: the process's own, one around it, none, and the host's path inside a container.
        ({"proc/self/cgroup": "0::/job/step\n"} | second("job/step/", "5000", 1000), 4000),
        ({"proc/self/cgroup": "0::/a/b\n"} | second("a/b/", "max", 1000) | second("a/", "3000", 1000), 2000),
        (MACHINE | {"proc/self/cgroup": "0::/a\n"} | second("a/", "max", 1000) | second("", "max", 1000), 8_192_000),
        ({"proc/self/cgroup": "0::/docker/0a1b\n"} | second("", "5000", 1000), 4000),
        ({"proc/self/cgroup": "0::/../other\n"} | second("", "5000", 1000), 4000),
        ({"proc/self/cgroup": "0::/\n"} | second("", "5000", 6000), 0),
        # Pages of files are taken back, those of tmpfs and of the process are not.
        (
            {"proc/self/cgroup": "0::/\n"}
            | second("", "5000", 4900, "anon 3000\nfile 1900\nshmem 400\ninactive_file 1000\nactive_file 500\n"),
            1600,
        ),
        # The first generation, whose files beside it say nothing of memory.
        ({"proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n0::/\n"} | first("job/", "5000", 1000), 4000),
        (
            {"proc/self/cgroup": "4:cpuset,memory:/a/b\n"}
            | first("a/b/", ENDLESS, 10)
            | first("a/", "3000", 2000, "cache 900\ninactive_file 5\ntotal_inactive_file 300\n")
            | first("", ENDLESS, 10),
            1300,
        ),
        (MACHINE | {"proc/self/cgroup": "4:memory:/\n"} | first("", ENDLESS, 1000), 8_192_000),
        # Swap, as far as there is some and it is allowed.
        ({"proc/meminfo": "MemAvailable: 1 kB\nSwapFree: 2 kB\n"}, 3072),
        (
            {"proc/meminfo": "MemAvailable: 9000 kB\nSwapFree: 9000 kB\n", "proc/self/cgroup": "0::/\n"}
            | second("", "5000", 1000, **{"memory.swap.max": "700", "memory.swap.current": "200"}),
            4500,
        ),
        (
            {"proc/meminfo": "MemAvailable: 9000 kB\nSwapFree: 9000 kB\n", "proc/self/cgroup": "4:memory:/\n"}
            | first("", "5000", 1000, **{"memory.memsw.limit_in_bytes": "6000", "memory.memsw.usage_in_bytes": "1500"}),
            4500,
        ),
        # Limits of the process, of which files it maps count.
        (MACHINE | UNLIMITED | {"proc/self/limits": "Max address space  3072000  unlimited  bytes\n"}, 1_024_000),
        (MACHINE | UNLIMITED | {"proc/self/limits": "Max data size  1024000  1024000  bytes\n"}, 512_000),
    ],
)
def test_what_is_left(tmp_path, files, left) -> None:
    assert memory_left(*tree(tmp_path, files)) == left


def test_what_does_not_suffice_is_told(monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 2_000_000_000)
    require_memory(2_000_000_000, "loading", "free some")
    with pytest.raises(UserError, match=r"^loading needs 3\.10 GB of memory, and 2\.00 GB is left .*; free some$"):
        require_memory(3_100_000_000, "loading", "free some")


def test_nothing_is_refused_where_nothing_is_known(monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: None)
    require_memory(1 << 60, "loading", "free some")


def test_freed_memory_is_given_back_before_a_refusal(monkeypatch) -> None:
    left = iter([1, 3])
    monkeypatch.setattr(memory, "memory_left", lambda: next(left))
    require_memory(2, "loading", "free some")


def test_reserved_addresses_count_where_they_are_limited(tmp_path, monkeypatch) -> None:
    limits = {"proc/self/limits": "Max address space  3048000  unlimited  bytes\n"}
    proc, _ = tree(tmp_path, UNLIMITED | limits)  # 1,000,000 bytes are left
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "memory_left", lambda: 1_000_000)
    require_memory(600_000, "loading", "free some", addresses=400_000)
    with pytest.raises(
        UserError, match=r"^loading needs 0\.00 GB of addresses, .* ulimit -v allows .*; allow about 0\.0 "
    ):
        require_memory(600_000, "loading", "free some", addresses=400_001)
    tree(tmp_path, UNLIMITED)
    require_memory(600_000, "loading", "free some", addresses=400_001)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is left")
def test_no_other_thread_runs_during_a_look(tmp_path) -> None:
    """Else one that takes memory took much of what is left between the question and the answer."""
    rounds, over = 0, threading.Event()

    def count() -> None:
        nonlocal rounds
        while not over.is_set():
            rounds += 1

    files = MACHINE | {"proc/self/cgroup": "0::/a\n"} | second("a/", "5000", 1000) | second("", "max", 1000)
    system = tree(tmp_path, files)
    before = sys.getswitchinterval()
    other = threading.Thread(target=count)
    other.start()
    try:
        sys.setswitchinterval(0.5)  # the other would go on for as long, once it were let in
        time.sleep(0.001)  # it waited with the interval before: now it has run, and waits anew
        first = rounds
        left = left_alive(*system)
        assert rounds == first
    finally:
        over.set()
        sys.setswitchinterval(before)
        other.join()
    assert left == 4000

"""A command that runs out of memory says so: the kernel would kill it without a word."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jaxpaint.base.memory import left_alive, return_freed
from jaxpaint.cli.exits import MISTAKE

# Bytes with which it ends: what may be taken between two looks when the next one is late.
LEAST = 32_000_000
# Bytes a second that a process takes at most, of two threads that touch new pages.
FASTEST = 4_000_000_000
# Seconds between two looks: a look takes 0.4 ms of a busy machine.
OFTEN, SELDOM = 0.004, 0.5


@contextmanager
def watched_memory() -> Iterator[None]:
    """Within it the process ends with a line and status 2 where the machine, or a container around it, has no more.

    In time in all but the worst case: what a process takes within some milliseconds can't be foreseen. What is
    estimated beforehand (`jaxpaint.base.memory.require_memory`) ends more gently.
    """
    if left_alive() is None:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over,), name="memory watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(over: threading.Event) -> None:
    wait = 0.0
    while not over.wait(wait):
        left = left_alive()
        if left is not None and left < LEAST:
            return_freed()
            left = left_alive()
            if left is not None and left < LEAST:
                _end(left)
        wait = SELDOM if left is None else min(SELDOM, max(OFTEN, (left - LEAST) / FASTEST))


def _end(left: int) -> None:
    """At once: Python's own way out takes memory, and time in which native code takes more."""
    begin = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""  # a bar may be drawn there
    text = (
        f"{begin}jaxpaint: error: {left / 1e6:.0f} MB of memory are left to this process, and without them it would be "
        "killed; lower --batch-tokens or what runs beside it, or allow the container or the job more; results that "
        "were kept are whole\n"
    )
    try:
        os.write(2, text.encode())
    finally:
        os._exit(MISTAKE)

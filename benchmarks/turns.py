"""Peers that take turns, each in a process of its own: in one, threads of the one keep those of the other waiting."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOLD = "told: "  # what a peer says, among what its libraries print


@contextmanager
def turns(script: str, *arguments: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """A process of `script` that calls `answer`: as a function that lets it run once, with what it is asked.

    Raises SystemExit where the process ends.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, script, *arguments], text=True, **pipes) as peer:

        def turn(*asked: Any) -> dict[str, Any]:
            try:
                peer.stdin.write(json.dumps(asked) + "\n")
                peer.stdin.flush()
                told = next(line for line in peer.stdout if line.startswith(TOLD))
            except (BrokenPipeError, StopIteration):
                raise SystemExit(f"{' '.join(map(str, peer.args))} ended; run it to see why") from None
            return json.loads(told.removeprefix(TOLD))

        yield turn
        peer.stdin.close()


def answer(run: Callable[..., Any]) -> None:
    """The other side: runs once for each line that is read, with what it asks, and tells what `timed` does."""
    turn = timed(run)
    for asked in sys.stdin:
        print(TOLD, json.dumps(turn(*json.loads(asked))), sep="", flush=True)


def timed(run: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """The same function with its answer, seconds and the process's peak memory."""

    def turn(*asked: Any) -> dict[str, Any]:
        started = time.perf_counter()
        found = run(*asked)
        return {"answer": found, "seconds": time.perf_counter() - started, "memory": peak_memory()}

    return turn


def peak_memory() -> float:
    """Of this process, in GiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20

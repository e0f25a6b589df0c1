"""A command again and again in one process, each time with another of its writes, renames and syncs failing.

Python's own calls, SQLite's and TensorStore's alike: they all end in the C library, in front of which
native_faults.c stands.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
RUN_SECONDS = 60  # after which a command counts as hanging


@dataclass(frozen=True)
class Outcome:
    """What a command did when its `number`-th call failed, and when it was run again.

    `said` is what it wrote to standard error, `left` the names beside its destination that it left; `is_equal` is
    whether the second run's rows are those of an undisturbed one.
    """

    number: int
    status: int
    said: str
    left: list[str]
    again: int
    said_again: str
    is_equal: bool


def compiled(folder: Path) -> Path:
    """The shared library. Raises OSError or CalledProcessError where there is no C compiler for it."""
    library = folder / "native_faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def outcomes(library: Path, folder: Path, arguments: list[str], most: int) -> list[Outcome]:
    """One for each call that fails, or for `most` at equal distances; `{out}` stands for the results store."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.helpers.native_faults",
            str(library),
            str(folder),
            str(most),
            json.dumps(arguments),
        ],
        env={**os.environ, "LD_PRELOAD": str(library), "JAXPAINT_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Outcome(**each) for each in json.loads(done.stdout)]


def _main(library: str, place: str, most: str, words: str) -> None:
    from tests.study.test_kills import stored

    shim = ctypes.CDLL(library)
    shim.calls.restype = ctypes.c_long
    folder = Path(place)

    def run(out: Path) -> tuple[int, str]:
        from jaxpaint.cli import main

        faulthandler.dump_traceback_later(RUN_SECONDS, exit=True)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            status = main([word.replace("{out}", str(out)) for word in json.loads(words)])
        faulthandler.cancel_dump_traceback_later()
        return status, said.getvalue()

    def rows(out: Path) -> list[object]:
        *results, _ = stored(out)  # claims that could not be taken back are of a process that lives: this one
        return results

    whole = folder / "whole" / "out.sqlite"
    faulty = folder / "faulty" / "out.sqlite"

    def anew() -> None:
        shutil.rmtree(faulty.parent, ignore_errors=True)
        faulty.parent.mkdir()

    whole.parent.mkdir()
    assert run(whole)[0] == 0
    expected = rows(whole)

    def arm(number: int) -> None:
        shim.arm(os.fsencode(faulty.parent), ctypes.c_long(number), errno.ENOSPC if number % 2 else errno.EIO)

    anew()
    arm(0)
    assert run(faulty)[0] == 0
    total = shim.calls()
    found = []
    step = max(1, -(-total // int(most)))
    for number in range(1, total + 1, step):
        anew()
        arm(number)
        status, said = run(faulty)
        reached = shim.calls() >= number
        arm(0)
        left = sorted(str(file.relative_to(faulty.parent)) for file in faulty.parent.rglob("*"))
        again, said_again = run(faulty)
        if reached:
            found.append(Outcome(number, status, said, left, again, said_again, rows(faulty) == expected))
    print(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    _main(*sys.argv[1:])

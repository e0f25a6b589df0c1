"""A command again and again in one process, each time with another of its changes of files failing.

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
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
RUN_SECONDS = 60  # after which a command counts as hanging


@dataclass(frozen=True)
class Outcome:
    """What a command did when its `number`-th call failed, and when it was run again.

    `call` names what failed, `said` is what came out on standard error. `is_whole`: the destination is what an
    undisturbed run makes, or, where the command said that it failed, what was there before, or a database that SQLite
    finds sound. `left` are the names beside it. `is_equal`: the second run came to what an undisturbed one does, and
    left no other names than that.
    """

    number: int
    call: str
    status: int
    said: str
    is_whole: bool
    left: list[str]
    again: int
    said_again: str
    is_equal: bool


def compiled(folder: Path) -> Path:
    """The shared library. Raises OSError or CalledProcessError where none can be made or loaded."""
    library = folder / "native_faults.so"
    if sys.platform != "linux":
        raise OSError("its calls are Linux's")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def outcomes(
    library: Path, place: Path, command: list[str], most: int, before: list[str] | None = None
) -> list[Outcome]:
    """One for each call that can fail, or for `most` at equal distances, the first and last among them.

    `{out}` stands for the destination: a results store where it follows --store. `before` makes what it replaces.
    """
    given = json.dumps({"command": command, "before": before, "most": most})
    told = preloaded(library, place, "from tests.helpers.native_faults import main; main()", given)
    return [Outcome(**each) for each in json.loads(told)]


def preloaded(library: Path, place: Path, code: str, *arguments: str) -> str:
    """What Python code writes to standard output in a process with the shim; its arguments come after these two."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(library), str(place), *arguments],
        env={**os.environ, "LD_PRELOAD": str(library), "JAXPAINT_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


class Shim:
    """What stands in front of this process's C library."""

    def __init__(self, library: str, folder: Path) -> None:
        self._library, self._folder = ctypes.CDLL(library), os.fsencode(folder)
        self._library.calls.restype, self._library.failed.restype = ctypes.c_long, ctypes.c_char_p

    def arm(self, number: int, *, lasting: bool = False) -> None:
        """From now on the `number`-th call in the folder fails, in turn with either error; none where it is 0.

        With `lasting` all others do that come after it, but for those that remove, as on a full disk.
        """
        code = errno.ENOSPC if number % 2 else errno.EIO
        self._library.arm(self._folder, ctypes.c_long(number), code, int(lasting))

    @property
    def calls(self) -> int:
        """How many there were since."""
        return int(self._library.calls())

    @property
    def failed(self) -> str:
        """The name of the call that failed first since then and the path that it was about; "" where none did."""
        return os.fsdecode(self._library.failed()).replace(f"{os.fsdecode(self._folder)}/", "")


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """What comes out there meanwhile, compiled libraries' lines included."""
    said: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read())


def _run(words: list[str], out: Path) -> tuple[int, str]:
    from jaxpaint.cli import main

    faulthandler.dump_traceback_later(RUN_SECONDS, exit=True, file=os.dup(2))
    with redirect_stdout(io.StringIO()), _stderr() as said:
        try:
            status = main([word.replace("{out}", str(out)) for word in words])
        except BaseException:
            traceback.print_exc()
            status = -1
    faulthandler.cancel_dump_traceback_later()
    return status, said[0]


def _copied(store: Path, scratch: Path) -> Path:
    """A copy to look into: SQLite mends what it opens."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in store.parent.glob(f"{store.name}*"):
        if file.is_file():
            shutil.copy(file, scratch)
    return scratch / store.name


def _is_sound(store: Path) -> bool:
    with closing(sqlite3.connect(store)) as connection, suppress(sqlite3.Error):
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return False


def main() -> None:
    """The other side of `outcomes`."""
    library, place, given = sys.argv[1:]
    from jaxpaint.training import trainer
    from tests.studies.test_kills import files, stored

    trainer.CHECKPOINT_SECONDS, trainer.WINDOW = 0.0, 1  # a checkpoint after each step, in place of the one before
    command, before, most = (json.loads(given)[name] for name in ("command", "before", "most"))
    is_store = "--store" in command
    name = "out.sqlite" if is_store else "out"
    whole, faulty, scratch = (Path(place) / part for part in ("whole", "faulty", "scratch"))
    whole, faulty = whole / name, faulty / name

    def anew(out: Path) -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        if before:
            assert _run(before, out)[0] == 0

    def result(out: Path) -> Any:
        return stored(out)[:-1] if is_store else files(out)  # without claims: their owner, this process, lives

    def beside(out: Path) -> list[str]:
        found = (str(file.relative_to(out.parent)) for file in out.parent.rglob("*"))
        return sorted(name for name in found if name != out.name and not name.startswith(f"{out.name}/"))

    anew(whole)
    old = files(whole) if before else None
    status, said = _run(command, whole)
    assert status == 0, said
    expected = result(whole)

    shim = Shim(library, faulty.parent)
    anew(faulty)
    shim.arm(0)
    assert _run(command, faulty)[0] == 0
    total = shim.calls
    found = []
    for number in sorted({1 + round(at * (total - 1) / (most - 1)) for at in range(most)}):
        anew(faulty)
        shim.arm(number)
        status, said = _run(command, faulty)
        call = shim.failed
        shim.arm(0)
        if not call:
            continue  # fewer calls than the time before
        if is_store:
            there = _copied(faulty, scratch)
            is_whole = result(there) == expected if status == 0 else not there.exists() or _is_sound(there)
        else:
            there = files(faulty) if faulty.exists() else None
            is_whole = there == expected or (status != 0 and there == old)
        left = beside(faulty)
        again, said_again = _run(command, faulty)
        is_equal = again == 0 and result(faulty) == expected and beside(faulty) == beside(whole)
        found.append(Outcome(number, call, status, said, is_whole, left, again, said_again, is_equal))
    print(json.dumps([asdict(each) for each in found]))

"""What the machine does not allow, in words; and checked first where native code would abort on it."""

from __future__ import annotations

import errno
import os
import threading

from jaxpaint.base.errors import UserError
from jaxpaint.base.machine import machine

MEMORY = "the memory does not suffice; free some, allow more (ulimit -v), or lower --batch-tokens"
THREADS = "no more threads can be started; allow more processes (ulimit -u) or more memory (ulimit -v)"
FILES = "too many open files; allow more (ulimit -n)"
_NUMBERS = {errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY, errno.EAGAIN: THREADS}
# Extension modules tell of limits in types of their own, so the text counts. The words are those of errno, of C++'s
# library, of dynamic linkers and of XLA.
_SAID = {
    "too many open files": FILES,
    "can't start new thread": THREADS,
    "resource temporarily unavailable": THREADS,
    "cannot allocate memory": MEMORY,
    "bad_alloc": MEMORY,
    "failed to map segment": MEMORY,
    "no space left on device": "the disk is full; make room and run the same command again",
    "disk quota exceeded": "your quota of the disk is used up; make room and run the same command again",
    "file too large": "a file would be larger than is allowed (ulimit -f, or the disk's format)",
    "resource_exhausted": "the device is out of memory; try a lower --batch-tokens",
}
# Bytes of addresses that JAX takes to start, and more for each core's threads, above which it ends with an exception
# where something fails. (Linux, two cores: it takes 2.2 GB, and aborts below 1.5.)
STARTING, A_CORE = 1_600_000_000, 32_000_000
READING = 300_000_000  # NumPy alone, whose OpenBLAS ends the process
# Files open at once beside those that are, while a model is converted: of 40 in all it always comes through; of 36 to
# 38 it does where fewer of its parts happen to be written at the same time.
OPEN_FILES = 36


def limit(error: BaseException) -> str | None:
    """Which limit an exception tells of and what to do, None if it does not."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read"
    if isinstance(error, OSError) and error.errno is not None:
        return _NUMBERS.get(error.errno)
    said = str(error).lower()
    return next((words for text, words in _SAID.items() if text in said), None)


def require(*, computing: bool) -> None:
    """Fails before the libraries that a command needs are loaded: NumPy, and JAX if it is `computing`.

    Raises:
        UserError: the addresses, threads or open files that this process may have do not suffice for them.
    """
    cores = machine().cores
    needed = STARTING + A_CORE * cores if computing else READING
    allowed = _addresses()
    if allowed is not None and allowed < needed:
        raise UserError(f"ulimit -v allows {allowed / 1e9:.1f} GB, and {needed / 1e9:.1f} GB are needed to begin with")
    _start_threads(16 + 4 * cores if computing else cores)
    if computing:
        _open_files(OPEN_FILES)


def _addresses() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _start_threads(count: int) -> None:
    """At once, as the libraries' pools do; they end at once."""
    end = threading.Event()
    try:
        for _ in range(count):
            threading.Thread(target=end.wait, daemon=True).start()
    except RuntimeError as error:
        raise UserError(THREADS) from error
    finally:
        end.set()


def _open_files(count: int) -> None:
    """At once; they are closed at once."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise UserError(FILES) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)

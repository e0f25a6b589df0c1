"""The signals that ask a process to end, as exceptions: what is under way tidies up, and nothing of them is lost."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# By name, because not every system has each. The last comes from `ulimit -t` and batch systems.
WORDS = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "hung up",
    "SIGXCPU": "out of the processor time that it may use",
}
ONE_REQUEST = 1.0  # seconds in which further signals are the same request: `timeout` and terminals send several
AGAIN_AFTER = 0.05  # seconds: what swallowed it has returned by then


class Terminated(KeyboardInterrupt):
    """Another signal than Ctrl-C's; all that handles Ctrl-C handles it too. Its argument is the signal's number."""


class _Last:
    """The signal that came last; none before Ctrl-C, which is taken to be the one where nobody asked for signals."""

    signum = int(signal.SIGINT)
    at = float("-inf")


class _Held:
    """Whether signals wait for the end of `held`, and the one that does."""

    is_on = False
    signum: int | None = None


def received() -> bool:
    """Whether a signal asked this process to end since `handled` was entered."""
    return _Last.at > float("-inf")


def word() -> str:
    """What happened to the process, in the past participle."""
    return WORDS[signal.Signals(_Last.signum).name]


def status() -> int:
    """The exit status that says so to a shell: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _Last.signum


def again(signum: int) -> NoReturn:
    """Raises what a signal raises within `handled`, where a library minded it and returned."""
    _Last.signum, _Last.at = signum, time.monotonic()
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(signum)


@contextmanager
def handled() -> Iterator[None]:
    """Within it the signals of `WORDS` raise: Ctrl-C KeyboardInterrupt, the others `Terminated`.

    What whoever started the process had it ignore (`nohup`, a shell's jobs in the background) stays ignored.
    """
    _Last.signum, _Last.at = int(signal.SIGINT), float("-inf")
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in WORDS:
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
                before[signum] = signal.signal(signum, _raise)
    try:
        with _reraised():
            yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Within it a signal of `handled` waits, and raises at the end; gives whether one waits. A second raises at once.

    For what others would wait for in vain if it were left in the middle.
    """
    _Held.is_on, _Held.signum = True, None
    try:
        yield lambda: _Held.signum is not None
    finally:
        _Held.is_on = False
    if _Held.signum is not None:
        again(_Held.signum)


def _raise(signum: int, _: object) -> None:
    now = time.monotonic()
    if now - _Last.at < ONE_REQUEST:
        return
    if _Held.is_on and _Held.signum is None:
        _Held.signum = _Last.signum = signum
        _Last.at = now
        return
    again(signum)


def _as_without() -> None:
    """In a process that was forked off, whose end is nobody's business but its maker's."""
    for name in WORDS:
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) is _raise:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_as_without)


@contextmanager
def _reraised() -> Iterator[None]:
    """Raises it again where Python drops it: in a finalizer, or a callback of the garbage collector.

    JAX has such a callback, which a Ctrl-C meets often enough while a model loads.
    """
    before = sys.unraisablehook
    waiting: list[threading.Timer] = []

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        _Last.at = float("-inf")
        signum = dropped.exc_value.args[0] if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
        waiting.append(threading.Timer(AGAIN_AFTER, _thread.interrupt_main, (signum,)))
        waiting[-1].daemon = True
        waiting[-1].start()

    sys.unraisablehook = hook
    try:
        yield
        if any(timer.is_alive() for timer in waiting):
            raise KeyboardInterrupt
    finally:
        sys.unraisablehook = before
        for timer in waiting:
            timer.cancel()

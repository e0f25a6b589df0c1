"""Ctrl-C that is not lost."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_AFTER = 0.05  # seconds: what swallowed it has returned by then


@contextmanager
def reraised() -> Iterator[None]:
    """Raises KeyboardInterrupt again where Python drops it: in a finalizer, or a callback of the garbage collector.

    JAX has such a callback, which a Ctrl-C meets often enough while a model loads.
    """
    before = sys.unraisablehook
    waiting: list[threading.Timer] = []

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        waiting.append(threading.Timer(AGAIN_AFTER, _thread.interrupt_main))
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

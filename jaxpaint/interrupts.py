"""Ctrl-C that is not lost."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_AFTER = 0.05  # seconds: what swallowed it has returned by then


@contextmanager
def kept() -> Iterator[None]:
    """Raises KeyboardInterrupt again where Python drops it: in a finalizer, or a callback of the garbage collector.

    JAX has such a callback, which a Ctrl-C meets often enough while a model loads.
    """
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_AFTER, _thread.interrupt_main).start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before

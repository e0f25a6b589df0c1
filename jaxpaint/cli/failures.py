"""What is said when a command does not end well, and with which status."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxpaint.base import interrupts
from jaxpaint.base.errors import UserError
from jaxpaint.base.failures import SHOW, in_words, mendable
from jaxpaint.base.progress import SHOWN, logger
from jaxpaint.base.shown import visible_name
from jaxpaint.cli.exits import BROKEN, MISTAKE
from jaxpaint.cli.streams import Output
from jaxpaint.plans.plan import PlanError


@contextmanager
def alone() -> Iterator[None]:
    """Within it nothing but `told` tells of failures: not threads, finalizers and native code on their own."""
    if _shown():
        yield
        return
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook = threading.excepthook = sys.unraisablehook = _silent
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def _silent(*_: Any) -> None:
    pass


def told(error: Exception | KeyboardInterrupt, output: Output) -> int:
    """Says in a line why the command ended, with the exception's notes, and returns the exit status."""
    if _shown():
        traceback.print_exception(error, file=sys.stderr)
    else:
        warnings.simplefilter("ignore")  # until `alone` ends: of what is left unfinished
    # What was interrupted may raise something of its own, such as XLA.
    if isinstance(error, KeyboardInterrupt) or (interrupts.received() and mendable(error) is None):
        _say(interrupts.word(), error)
        return interrupts.status()
    if output.failure is not None:
        if output.failure.errno == errno.EPIPE:
            return 0  # the reader, such as `head`, has seen enough
        _say(f"error: {output.lost()}", error)
        return MISTAKE
    text = in_words(error)
    # A plan's mistake has the plan and a caret below it. All else is one line, whatever names stand in it.
    _say(f"error: {text if isinstance(error, PlanError) else visible_name(text)}", error)
    return MISTAKE if mendable(error) is not None else BROKEN


def work_is_kept(error: BaseException, where: str) -> None:
    """Has `told` say where the work is that was done until `error`; a user's mistake is no matter of that."""
    if not isinstance(error, UserError):
        error.add_note(where)


def _shown() -> bool:
    return os.environ.get(SHOW, "0") not in ("", "0")


def _say(text: str, error: BaseException) -> None:
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    print(f"jaxpaint: {text}{notes}", file=sys.stderr)
    logger.error("%s%s", text, notes, extra=SHOWN)

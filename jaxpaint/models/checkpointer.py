"""Orbax's checkpointer, which keeps its warnings to itself."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def checkpointer_of(**settings: Any) -> Iterator[Any]:
    """A checkpointer of parameter trees."""
    import orbax.checkpoint as ocp

    with quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**settings)) as checkpointer:
        yield checkpointer


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Orbax keeps warnings about its own settings to itself, and prints no error that it raises anyway."""
    logger, tasks, hook = logging.getLogger("absl"), logging.getLogger("asyncio"), sys.unraisablehook

    def without_late_ones(dropped: sys.UnraisableHookArgs) -> None:
        if not (isinstance(dropped.exc_value, RuntimeError) and "Event loop is closed" in str(dropped.exc_value)):
            hook(dropped)

    logger.addFilter(_not_orbax)
    tasks.addFilter(_not_late)
    sys.unraisablehook = without_late_ones
    yield
    # Not after an error: writes that were begun beside the one that failed may still fail, in threads of their own.
    # Where another checkpoint comes after it, they may do so even later: their filter, which knows them, stays.
    logger.removeFilter(_not_orbax)
    sys.unraisablehook = hook


def _not_late(record: logging.LogRecord) -> bool:
    """All but writes of TensorStore that nobody waited for: their errors begin with a status, `ValueError('CODE: …`."""
    late = r"exception was never retrieved.* exception=\w+\(['\"][A-Z_]+: "
    return not re.search(late, record.getMessage(), re.DOTALL)


def _not_orbax(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL or "orbax" not in Path(record.pathname).parts

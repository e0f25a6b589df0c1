"""--quiet, --verbose and --log-file: what becomes of all that is told on the way, by Python's `logging`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxpaint.base.files import check_writable, is_stream
from jaxpaint.base.progress import SHOWN, logger, on_screen

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARY_LINE = "%(name)s: %(message)s"


@contextmanager
def telling() -> Iterator[Callable[[argparse.Namespace], None]]:
    """Gives what has messages go where the options say, until the end of the block."""
    root = logging.getLogger()
    levels = root.level, logger.level
    of_screen = on_screen.level
    added: list[logging.Handler] = []

    def begin(options: argparse.Namespace) -> None:
        if options.quiet:
            on_screen.setLevel(logging.WARNING)
        if options.verbose:
            libraries = logging.StreamHandler(sys.stderr)
            libraries.setFormatter(logging.Formatter(LIBRARY_LINE))
            added.append(libraries)
        if options.log_file is not None:
            added.append(_file(options.log_file))
            logger.addHandler(added[-1])
            logger.info("jaxpaint %s", " ".join(sys.argv[1:]), extra=SHOWN)
        for handler in added:
            root.addHandler(handler)
        if added:
            root.setLevel(logging.INFO if options.verbose else logging.WARNING)

    try:
        yield begin
    finally:
        for handler in added:
            root.removeHandler(handler)
            logger.removeHandler(handler)
            handler.close()
        for each, level in zip((root, logger), levels, strict=True):
            each.setLevel(level)
        on_screen.setLevel(of_screen)


def _file(path: Path) -> logging.Handler:
    """Raises UserError for what cannot be written."""
    check_writable(path, "a log file", "--log-file")
    handler = logging.FileHandler(
        path, mode="w" if is_stream(path) else "a", encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter(LINE))
    return handler

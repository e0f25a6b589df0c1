"""A command that several processes run as one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from jaxpaint.studies.hosts import Hosts


@contextmanager
def together(options: argparse.Namespace) -> Iterator[None]:
    """Within it the processes of `--coordinator` are one, of which the first prints. Raises UserError."""
    if not hasattr(options, "coordinator"):
        yield
        return
    from jaxpaint.base.hosts import is_first, joined
    from jaxpaint.base.progress import say

    if options.coordinator is not None:
        _check(options)
    with joined(options.coordinator, options.num_processes, options.process_id, tell=say):
        if options.coordinator is None:
            yield
            return
        with (
            open(os.devnull, "w") as nowhere,
            _without_native_words(nowhere) as own,
            redirect_stdout(own if is_first() else nowhere),
        ):
            yield


@contextmanager
def _without_native_words(nowhere: TextIO) -> Iterator[TextIO]:
    """Standard output for the command alone: native code's goes nowhere, where Gloo says who is connected."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as own:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield own
        finally:
            own.flush()
            os.dup2(own.fileno(), 1)


def _check(options: argparse.Namespace) -> None:
    """Raises UserError for what each process can say before it waits for the others."""
    if not hasattr(options, "ray"):
        from convert.cache import require_converted

        require_converted(options.model, options.revision)
    elif options.ray is not None:  # of a study or search, of which the first process looks at all else: see `led`
        raise UserError(
            "--ray has many workers compute, each with a whole model, and --coordinator several processes with one "
            "model; leave one of the two away"
        )
    elif getattr(options, "dry_run", False):
        raise UserError("--dry-run computes nothing, and needs no other process; leave --coordinator away")


def led(options: argparse.Namespace, command: Callable[[Hosts | None], int]) -> int:
    """The status of a command that the first process of `--coordinator` runs, and the others compute for."""
    if options.coordinator is None:
        return command(None)
    from jaxpaint.base.hosts import is_first
    from jaxpaint.studies.hosts import follow, leading

    if not is_first():
        follow()
        return 0
    with leading() as hosts:
        return command(hosts)

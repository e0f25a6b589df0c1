"""A command that several processes run as one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

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
        from convert.cache import require_converted

        if getattr(options, "ray", None) is not None:
            raise UserError(
                "--ray has many workers compute, each with a whole model, and --coordinator several processes with one "
                "model; leave one of the two away"
            )
        if getattr(options, "dry_run", False):
            raise UserError("--dry-run computes nothing, and needs no other process; leave --coordinator away")
        if options.model is not None:  # that of a study may stand in a file, which the first process reads
            require_converted(options.model, options.revision)
    with joined(options.coordinator, options.num_processes, options.process_id, tell=say):
        if options.coordinator is None or is_first():
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield


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

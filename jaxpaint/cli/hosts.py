"""A command that several processes run as one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from jaxpaint.base.errors import UserError


@contextmanager
def together(options: argparse.Namespace) -> Iterator[None]:
    """Within it the processes of `--coordinator` are one, of which the first prints. Raises UserError."""
    if not hasattr(options, "coordinator"):
        yield
        return
    from jaxpaint.base.hosts import is_first, joined
    from jaxpaint.base.progress import say

    if options.coordinator is not None:
        from convert.cache import is_converted

        if not is_converted(options.model, options.revision):
            raise UserError(
                f"{options.model} is not converted yet, which one process does: first run "
                f"jaxpaint convert {options.model} STORE, and give --model STORE"
            )
    with joined(options.coordinator, options.num_processes, options.process_id, tell=say):
        if options.coordinator is None or is_first():
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield

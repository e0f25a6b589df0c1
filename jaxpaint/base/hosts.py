"""Several processes, on one machine or many, as one computation: each has a part of every array's devices."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError, first_line

if TYPE_CHECKING:
    import numpy as np

TOGETHER = 120  # seconds that processes may end apart
WAIT = 300  # seconds in which all must have come


class ProcessLost(UserError):
    """Another process ended without a word: there is no waiting for it."""


def on_host(array: Any) -> np.ndarray:
    """An array's numbers, whole, also where its parts lie on devices of other processes: then all must call it."""
    import numpy as np

    if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array, tiled=True))


def all_on_host(arrays: Any) -> Any:
    """As `on_host`, of all arrays in a tree."""
    import jax

    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)  # all on their way at once
    return jax.tree.map(on_host, arrays)


def are_several() -> bool:
    """Whether this process computes together with others."""
    import jax

    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the first of those that compute together, or alone: it writes for all."""
    import jax

    return jax.process_index() == 0


@contextmanager
def joined(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Within it this process is one of several that compute together.

    `coordinator` is `HOST:PORT` of the first process, whose number `process_id` is 0, or `auto` where the cluster says
    all of it (SLURM, Open MPI, TPU pods: what `jax.distributed.initialize` knows); without one nothing happens. All
    must do the same: they wait for one another at the end, also of a mistake, which each tells. When one fails
    otherwise, or the others do not come to the first, JAX ends what is there, and says so at length.

    Raises:
        UserError: numbers that cannot be, or no other process that answers.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError("--num-processes and --process-id need a --coordinator HOST:PORT")
        yield
        return
    given = _checked(coordinator, num_processes, process_id)
    tell(f"jaxpaint: waiting for the other processes at {coordinator}, at most {WAIT} s")
    if process_id and coordinator != "auto":
        _await_first(coordinator)
    import jax

    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(*given, initialization_timeout=WAIT, shutdown_timeout_seconds=TOGETHER)
    except (RuntimeError, ValueError) as error:  # JaxRuntimeError of time-outs is a RuntimeError
        raise UserError(f"--coordinator {coordinator}: no computation together: {first_line(error)}") from error
    with suppress(ValueError, TypeError):  # not in the main thread, or no handler of Python's
        signal.signal(signal.SIGTERM, before)  # JAX's own handler notes it, and goes on
    try:
        yield
    except ProcessLost:
        raise
    except UserError:
        with suppress(RuntimeError):  # a mistake of one alone
            jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _await_first(coordinator: str) -> None:
    """Until the first process listens. Raises UserError where it does not: JAX would abort."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                why = error.strerror or first_line(error)
                raise UserError(f"--coordinator {coordinator}: no first process came in {WAIT} s ({why})") from error
            time.sleep(0.2)


def _checked(
    coordinator: str, num_processes: int | None, process_id: int | None
) -> tuple[str | None, int | None, int | None]:
    if coordinator == "auto":
        return None, num_processes, process_id
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UserError(f"--coordinator is {coordinator!r}; expected HOST:PORT of the first process, or auto")
    if num_processes is None or process_id is None:
        raise UserError("--coordinator HOST:PORT needs --num-processes and --process-id, from 0, for each process")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process-id is {process_id}; of {num_processes} processes it is 0 to {num_processes - 1}")
    return coordinator, num_processes, process_id

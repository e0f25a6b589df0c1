"""Products and attention as XLA calls them: shares of the work go to XLA's own threads."""

from __future__ import annotations

from numba import cfunc, types

from jaxpaint.tiles.attention_job import attend, attention_job
from jaxpaint.tiles.frame import ASKED_BYTES, arguments, error, runs, schedule, threads
from jaxpaint.tiles.job import DONE, KIND, NEXT, PRODUCT, SHARES, WORKERS, leave, own_scratch
from jaxpaint.tiles.native import KEPT, add, address_of, allocate, call, free, give_way, read
from jaxpaint.tiles.product_job import multiply, product_job

ARGUMENTS_OF_PRODUCT = 3


def _do_shares(job: int) -> None:
    """Shares that no thread has begun, until there are none."""
    scratch, shares = own_scratch(job), read(job + SHARES)
    while True:
        share = add(job + NEXT, 1)
        if share >= shares:
            break
        if read(job + KIND) == PRODUCT:
            multiply(job, share, scratch)
        else:
            attend(job, share, scratch)
        add(job + DONE, 1)
    leave(job)


# All call it by its address: each place that it is compiled into takes a second.
do_shares = address_of(_do_shares)


@cfunc(types.int64(types.int64), cache=KEPT)
def handler(frame: int) -> int:
    """An `XLA_FFI_Handler` of a product or of attention, by how many arguments there are.

    A product's are x [rows, inner], kernels that lie as tiles read them, and which. Attention's are queries, a scale,
    and keys, values and a mask of each part, as `jaxpaint.tiles.attention` has them.
    """
    if not runs(frame):
        return 0
    asked = allocate(64, ASKED_BYTES)
    if arguments(frame) == ARGUMENTS_OF_PRODUCT:
        job = product_job(frame, threads(frame, asked))
    else:
        job = attention_job(frame, threads(frame, asked))
    if job == 0:
        told = error(frame, asked)
        free(asked)
        return told
    task = do_shares()
    for _ in range(read(job + WORKERS) - 1):
        if schedule(frame, asked, task, job) != 0:
            leave(job)
    free(asked)
    call(task, job)
    while add(job + DONE, 0) < read(job + SHARES):  # those that other threads are at
        give_way()
    leave(job)
    return 0

"""What threads share of a piece of work: who does which share of it, and with which memory. Eight bytes each."""

from __future__ import annotations

from numba import types

from jaxpaint.tiles.native import add, allocate, compiled, free, read, write

# The next share, those done, threads that still look at this, threads that have begun; then what is fixed.
NEXT, DONE, HOLDERS, BEGUN, KIND, SHARES, WORKERS, SCRATCH, SCRATCH_BYTES = range(0, 72, 8)
OWN = 72  # where what a kind of work has of its own begins
PRODUCT, ATTENTION = 0, 1  # kinds
LINE = 64


@compiled(*[types.int64] * 5, result=types.int64)
def new_job(kind: int, own_bytes: int, shares: int, workers: int, scratch_bytes: int) -> int:
    """With memory for each of the workers; 0 where there is none left."""
    head = -(-(OWN + own_bytes) // LINE) * LINE
    scratch_bytes = -(-scratch_bytes // LINE) * LINE
    workers = max(1, min(workers, shares))
    job = allocate(LINE, head + workers * scratch_bytes)
    if job == 0:
        return job
    write(job + NEXT, 0)
    write(job + DONE, 0)
    write(job + BEGUN, 0)
    write(job + KIND, kind)
    write(job + SHARES, shares)
    write(job + WORKERS, workers)
    write(job + SCRATCH, job + head)
    write(job + SCRATCH_BYTES, scratch_bytes)
    # Whoever is done last frees the job, be it who waits for all: a thread that comes when nothing is left looks at it.
    write(job + HOLDERS, workers + 1)
    return job


@compiled(types.int64, result=types.int64)
def own_scratch(job: int) -> int:
    """Memory of this thread's own, as it begins."""
    return read(job + SCRATCH) + add(job + BEGUN, 1) * read(job + SCRATCH_BYTES)


@compiled(types.int64)
def leave(job: int) -> None:
    if add(job + HOLDERS, -1) == 1:
        free(job)

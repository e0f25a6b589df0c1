"""The product as XLA calls it: its arguments from a frame of XLA's foreign calls, its shares to XLA's own threads.

Offsets are those of `xla/ffi/api/c_api.h`, whose layout holds for a version of the interface (`MAJOR`, `MINOR`).
"""

from __future__ import annotations

from numba import cfunc, types

from jaxpaint.tiles.native import (
    KEPT,
    add,
    address_of,
    address_of_text,
    allocate,
    call,
    compiled,
    free,
    give_way,
    read,
    read_word,
    write,
    write_word,
)
from jaxpaint.tiles.share import multiply_share, scratch_bytes

MAJOR, MINOR = 0, 1
METADATA, EXECUTE, RESOURCE_EXHAUSTED = 1, 3, 8
# XLA_FFI_CallFrame
EXTENSION, API, CONTEXT, STAGE, ARGUMENTS, RESULTS = 8, 16, 24, 32, 72, 112
# XLA_FFI_Extension_Base, XLA_FFI_Metadata_Extension, XLA_FFI_Metadata
EXTENSION_TYPE, ITS_METADATA, MAJOR_VERSION, MINOR_VERSION = 8, 24, 24, 28
# XLA_FFI_Buffer
DTYPE, DATA, DIMENSIONS = 16, 24, 40
BFLOAT16 = 16  # of XLA_FFI_DataType
# XLA_FFI_Api
CREATE_ERROR, SCHEDULE, NUMBER_OF_THREADS = 48, 136, 144

# What threads share, eight bytes each: the next share, those done, threads that still look at this; then what is fixed.
# After it comes memory for each share.
NEXT, DONE, HOLDERS, X, KERNEL, OUT, ROWS, INNER, COLUMNS, HIGH, WIDE, SCRATCH, ITEM, OUT_ITEM = range(0, 112, 8)
JOB_BYTES = 128
ARGUMENTS_BYTES = 64
LEAST_COLUMNS = 128  # of a share: for fewer, rows are taken for too few products
LEAST_ROWS = 64
PAIR = 32  # of tiles: rows and columns of a share are multiples

no_memory = address_of_text("RESOURCE_EXHAUSTED: Out of memory for a matrix product.")


@compiled(types.int64, result=types.int64)
def _shares(job: int) -> int:
    return -(-read(job + COLUMNS) // read(job + WIDE)) * -(-read(job + ROWS) // read(job + HIGH))


@compiled(types.int64)
def _do_shares(job: int) -> None:
    """Shares that no thread has begun, until there are none."""
    rows, columns, high, wide = read(job + ROWS), read(job + COLUMNS), read(job + HIGH), read(job + WIDE)
    across, shares = -(-columns // wide), _shares(job)
    while True:
        share = add(job + NEXT, 1)
        if share >= shares:
            break
        row, column = share // across * high, share % across * wide
        multiply_share(
            read(job + X),
            read(job + ITEM),
            read(job + KERNEL),
            read(job + OUT),
            read(job + OUT_ITEM),
            read(job + INNER),
            columns,
            row,
            min(rows, row + high),
            column,
            min(columns, column + wide),
            job + JOB_BYTES + share * read(job + SCRATCH),
        )
        add(job + DONE, 1)


@compiled(types.int64)
def _leave(job: int) -> None:
    if add(job + HOLDERS, -1) == 1:
        free(job)


def _task(job: int) -> None:
    _do_shares(job)
    _leave(job)


task = address_of(_task)


@compiled(types.int64, types.int64, result=types.int64)
def _threads(frame: int, asked: int) -> int:
    """XLA's own for a program's work; XLA_FFI_ThreadPool_NumThreads_Args."""
    found = asked + 32
    write(found, 1)
    write(asked, 32)
    write(asked + 8, 0)
    write(asked + 16, read(frame + CONTEXT))
    write(asked + 24, found)
    call(read(read(frame + API) + NUMBER_OF_THREADS), asked)
    return read(found)


@compiled(types.int64, types.int64, result=types.int64)
def _error(frame: int, asked: int) -> int:
    """XLA_FFI_Error_Create_Args."""
    write(asked, 32)
    write(asked + 8, 0)
    write(asked + 16, no_memory())
    write(asked + 24, RESOURCE_EXHAUSTED)
    return call(read(read(frame + API) + CREATE_ERROR), asked)


@compiled(types.int64, result=types.int64)
def _item(buffer: int) -> int:
    """Bytes of a number."""
    return 2 if read_word(buffer + DTYPE) == BFLOAT16 else 4


@compiled(types.int64, types.int64, result=types.int64)
def _job(frame: int, threads: int) -> int:
    """What the frame asks for, in shares of about equal size, one a thread where that is worth it; 0 without memory."""
    arguments = read(frame + ARGUMENTS)
    x, kernels, index, out = read(arguments), read(arguments + 8), read(arguments + 16), read(read(frame + RESULTS))
    rows, inner = read(read(x + DIMENSIONS)), read(read(x + DIMENSIONS) + 8)
    count, columns = read(read(kernels + DIMENSIONS)), PAIR * read(read(kernels + DIMENSIONS) + 8)
    kernel = read(kernels + DATA) + max(0, min(count - 1, read_word(read(index + DATA)))) * inner * columns * 2
    across = max(1, min(threads, columns // LEAST_COLUMNS))
    down = max(1, min(threads // across, rows // LEAST_ROWS))
    high, wide = -(-rows // (PAIR * down)) * PAIR, -(-columns // (PAIR * across)) * PAIR
    scratch = scratch_bytes(inner)
    job = allocate(64, JOB_BYTES + across * down * scratch)
    if job == 0:
        return job
    write(job + NEXT, 0)
    write(job + DONE, 0)
    write(job + X, read(x + DATA))
    write(job + ITEM, _item(x))
    write(job + KERNEL, kernel)
    write(job + OUT, read(out + DATA))
    write(job + OUT_ITEM, _item(out))
    write(job + ROWS, rows)
    write(job + INNER, inner)
    write(job + COLUMNS, columns)
    write(job + HIGH, high)
    write(job + WIDE, wide)
    write(job + SCRATCH, scratch)
    # Whoever is done last frees the job: a thread that comes when nothing is left still looks at it.
    write(job + HOLDERS, _shares(job))
    return job


@compiled(types.int64, types.int64, types.int64)
def _call_others(frame: int, job: int, asked: int) -> None:
    """XLA_FFI_ThreadPool_Schedule_Args."""
    write(asked, 40)
    write(asked + 8, 0)
    write(asked + 16, read(frame + CONTEXT))
    write(asked + 24, task())
    write(asked + 32, job)
    for _ in range(_shares(job) - 1):
        if call(read(read(frame + API) + SCHEDULE), asked) != 0:
            _leave(job)


@cfunc(types.int64(types.int64), cache=KEPT)
def handler(frame: int) -> int:
    """An `XLA_FFI_Handler` of x [rows, inner], kernels that lie as tiles read them, and which: its product with x."""
    extension = read(frame + EXTENSION)
    if extension != 0 and read_word(extension + EXTENSION_TYPE) == METADATA:
        metadata = read(extension + ITS_METADATA)
        write_word(metadata + MAJOR_VERSION, MAJOR)
        write_word(metadata + MINOR_VERSION, MINOR)
        return 0
    if read_word(frame + STAGE) != EXECUTE:
        return 0
    asked = allocate(64, ARGUMENTS_BYTES)
    job = _job(frame, _threads(frame, asked))
    if job == 0:
        error = _error(frame, asked)
        free(asked)
        return error
    _call_others(frame, job, asked)
    free(asked)
    shares = _shares(job)
    _do_shares(job)
    while add(job + DONE, 0) < shares:  # those that other threads are at
        give_way()
    _leave(job)
    return 0

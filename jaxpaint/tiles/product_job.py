"""A matrix product as a job: of rows by a packed kernel, in shares of rows and columns."""

from __future__ import annotations

from numba import types

from jaxpaint.tiles import multiplied_by
from jaxpaint.tiles.frame import argument, data, item, result, size
from jaxpaint.tiles.job import OWN, PRODUCT, new_job
from jaxpaint.tiles.native import compiled, read, read_word, write

if multiplied_by() == "tiles":
    from jaxpaint.tiles.share import multiply_share, scratch_bytes
else:
    from jaxpaint.tiles.vector_share import multiply_share, scratch_bytes

X, KERNEL, OUT, ROWS, INNER, COLUMNS, HIGH, WIDE, ITEM, OUT_ITEM = range(OWN, OWN + 80, 8)
OWN_BYTES = 80
LEAST_COLUMNS = 128  # of a share: for fewer, rows are taken for too few products
LEAST_ROWS = 64
PAIR = 32  # columns of a share are multiples, and rows


@compiled(types.int64, types.int64, result=types.int64)
def product_job(frame: int, threads: int) -> int:
    """What the frame asks for, in shares of about equal size, one a thread where that is worth it; 0 without memory."""
    x, kernels, index, out = argument(frame, 0), argument(frame, 1), argument(frame, 2), result(frame)
    rows, inner, count, columns = size(x, 0), size(x, 1), size(kernels, 0), PAIR * size(kernels, 1)
    kernel = data(kernels) + max(0, min(count - 1, read_word(data(index)))) * inner * columns * 2
    across = max(1, min(threads, columns // LEAST_COLUMNS))
    down = max(1, min(threads // across, rows // LEAST_ROWS))
    high, wide = -(-rows // (PAIR * down)) * PAIR, -(-columns // (PAIR * across)) * PAIR
    shares = -(-columns // wide) * -(-rows // high)
    job = new_job(PRODUCT, OWN_BYTES, shares, threads, scratch_bytes(inner))
    if job == 0:
        return job
    write(job + X, data(x))
    write(job + ITEM, item(x))
    write(job + KERNEL, kernel)
    write(job + OUT, data(out))
    write(job + OUT_ITEM, item(out))
    write(job + ROWS, rows)
    write(job + INNER, inner)
    write(job + COLUMNS, columns)
    write(job + HIGH, high)
    write(job + WIDE, wide)
    return job


@compiled(types.int64, types.int64, types.int64)
def multiply(job: int, share: int, scratch: int) -> None:
    rows, columns, high, wide = read(job + ROWS), read(job + COLUMNS), read(job + HIGH), read(job + WIDE)
    across = -(-columns // wide)
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
        scratch,
    )

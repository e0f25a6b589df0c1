"""One thread's share of a matrix product, by AMX's tiles.

A number of float32 is the sum of three of bfloat16, which the tiles multiply exactly and add up in float32, at many
times the rate of float32's own instructions. Kernels are bfloat16, so that three products are all of it. Rows of
bfloat16 take one, and are read where they lie.
"""

from __future__ import annotations

from numba import types

from jaxpaint.tiles.instructions import (
    add_row,
    clear,
    configure,
    fetch,
    load_left,
    load_right,
    multiply,
    narrow_row,
    release,
    split,
    store,
)
from jaxpaint.tiles.native import compiled, write, write_word

TILE = 16  # rows, and columns of float32
DEPTH = 32  # of bfloat16 in a tile's row
BYTES = 1024  # of a tile
ITEM, NARROW = 4, 2  # bytes of a float32, of a bfloat16
PIECES = 3
SHAPES_BYTES = 64
AHEAD = 16 << 10  # bytes that a kernel is asked for before it is read, where reading takes longest
# Of a kernel, read for all rows before what follows: what the second cache holds beside all else.
BLOCK_BYTES = 1 << 20
DEEPEST = 1536  # of numbers that are added up in one sum: more round more, and take a cache's room

clear_0, clear_1, clear_2, clear_3 = clear
store_0, store_1, store_2, store_3 = store
load_left_0, load_left_1 = load_left
load_right_0, load_right_1 = load_right
multiply_0, multiply_1, multiply_2, multiply_3 = multiply


@compiled(types.int64, types.int64)
def _shape_tiles(rows: int, shapes: int) -> None:
    for each in range(0, SHAPES_BYTES, 8):
        write(shapes + each, 0)
    write(shapes, 1)
    for tile in range(0, 8, 2):
        write_word(shapes + 16 + 2 * tile, 64 | 64 << 16)
    each = rows | rows << 8
    write(shapes + 48, each | each << 16 | each << 32 | TILE << 48 | TILE << 56)
    configure(shapes)


@compiled(*[types.int64] * 5)
def _take_rows(x: int, stride: int, depth: int, rows: int, target: int) -> None:
    """Three tiles of rows for each 32 numbers of them, one for each piece, 2 x `BYTES` apart."""
    for each in range(rows):
        source = x + each * stride
        at = target + each * 64
        for _ in range(depth // DEPTH):
            split(source, at, 2 * BYTES)
            split(source + 64, at + 32, 2 * BYTES)
            source += 128
            at += 2 * BYTES * PIECES


@compiled(*[types.int64] * 8)
def _multiply(left: int, lower: int, stride: int, step: int, piece: int, pieces: int, right: int, depth: int) -> None:
    """Sums of two tiles of rows by two of columns, left in their tiles.

    The lower rows are `lower` bytes from the upper ones, the next 32 numbers `step`, the next piece of all `piece`.
    """
    clear_0()
    clear_1()
    clear_2()
    clear_3()
    for _ in range(depth // DEPTH):
        load_right_0(right, 64)
        load_right_1(right + BYTES, 64)
        at = left
        for _ in range(pieces):
            load_left_0(at, stride)
            load_left_1(at + lower, stride)
            multiply_0()
            multiply_1()
            multiply_2()
            multiply_3()
            at += piece
        left += step
        right += 2 * BYTES


@compiled(*[types.int64] * 7)
def _multiply_few(left: int, stride: int, step: int, piece: int, pieces: int, right: int, depth: int) -> None:
    """As `_multiply`, of the upper tile of rows alone."""
    clear_0()
    clear_1()
    for _ in range(depth // DEPTH):
        fetch(right + AHEAD)
        load_right_0(right, 64)
        load_right_1(right + BYTES, 64)
        at = left
        for _ in range(pieces):
            load_left_0(at, stride)
            multiply_0()
            multiply_1()
            at += piece
        left += step
        right += 2 * BYTES


@compiled(*[types.int64] * 4)
def _store(at: int, lower: int, stride: int, both: int) -> None:
    """The sums to 16 rows of 32 columns, and of both tiles of rows to those `lower` bytes from there."""
    store_0(at, stride)
    store_1(at + TILE * ITEM, stride)
    if both:
        store_2(at + lower, stride)
        store_3(at + lower + TILE * ITEM, stride)


@compiled(*[types.int64] * 5)
def _add_rows(source: int, at: int, stride: int, first: int, last: int) -> None:
    for row in range(first, last):
        for half in range(2):
            add_row(source + (2 * row + half) * TILE * ITEM, at + row * stride + half * TILE * ITEM)


@compiled(*[types.int64] * 4)
def _narrow_rows(source: int, at: int, stride: int, rows: int) -> None:
    for row in range(rows):
        for half in range(2):
            narrow_row(source + (2 * row + half) * TILE * ITEM, at + row * stride + half * TILE * NARROW)


@compiled(types.int64, types.int64, result=types.int64)
def _block(depth: int, width: int) -> int:
    """Columns that are multiplied with all rows before others."""
    return min(width, max(2 * TILE, BLOCK_BYTES // 2 // depth // (2 * TILE) * 2 * TILE))


@compiled(types.int64, result=types.int64)
def scratch_bytes(inner: int) -> int:
    """What `multiply_share` needs."""
    return 4 * BYTES + SHAPES_BYTES + PIECES * 2 * TILE * max(DEPTH, min(inner, DEEPEST)) * NARROW


@compiled(*[types.int64] * 12)
def multiply_share(
    x: int,
    item: int,
    kernel: int,
    out: int,
    out_item: int,
    inner: int,
    columns: int,
    first_row: int,
    last_row: int,
    first: int,
    last: int,
    scratch: int,
) -> None:
    """Writes `out[first_row:last_row, first:last]` of `x @ kernel`, [rows, inner] by [inner, columns].

    Numbers of x have `item` bytes, those of the result `out_item`: 4 of float32, 2 of bfloat16. The kernel lies as
    `jaxpaint.tiles.packed` says. `inner` and the columns are multiples of 32, `scratch` begins a cache line. Float32
    that is not finite gives NaN.
    """
    narrow = out_item != ITEM
    deepest = inner if narrow else min(inner, DEEPEST)
    block = _block(deepest, last - first)
    sums = scratch
    shapes = sums + 4 * BYTES
    left = shapes + SHAPES_BYTES
    shaped = 0
    x_stride, stride = inner * item, columns * out_item
    pieces, piece, left_stride, step = PIECES, 2 * BYTES, 64, 2 * BYTES * PIECES
    if item != ITEM:
        pieces, left_stride, step = 1, x_stride, 64
    for start in range(first, last, block):
        width = min(block, last - start)
        for above in range(0, inner, deepest):
            depth = min(deepest, inner - above)
            right = kernel + (start * inner + above * 2 * TILE) * 2
            for row in range(first_row, last_row, 2 * TILE):
                rows = min(TILE, last_row - row)
                if rows != shaped:
                    _shape_tiles(rows, shapes)
                    shaped = rows
                # Of the last rows the lower tile may do again what the upper does.
                apart = min(TILE, last_row - rows - row)
                upper, lower = x + row * x_stride + above * item, apart * x_stride
                if item == ITEM:
                    _take_rows(upper, x_stride, depth, rows, left)
                    if apart:
                        _take_rows(upper + lower, x_stride, depth, rows, left + BYTES)
                    upper, lower = left, BYTES
                at = out + row * stride + start * out_item
                for pair in range(width // TILE // 2):
                    of_pair = right + pair * inner * 4 * TILE
                    if apart:
                        _multiply(upper, lower, left_stride, step, piece, pieces, of_pair, depth)
                    else:
                        _multiply_few(upper, left_stride, step, piece, pieces, of_pair, depth)
                    if above or narrow:
                        _store(sums, 2 * BYTES, 2 * TILE * ITEM, apart)
                    else:
                        _store(at, apart * stride, stride, apart)
                    if narrow:
                        _narrow_rows(sums, at, stride, rows)
                        if apart:
                            _narrow_rows(sums + 2 * BYTES, at + apart * stride, stride, rows)
                    elif above:  # sums of sums round less than one sum of all
                        _add_rows(sums, at, stride, 0, rows)
                        if apart:
                            _add_rows(sums + 2 * BYTES, at + apart * stride, stride, rows - apart, rows)
                    at += 2 * TILE * out_item
    release()

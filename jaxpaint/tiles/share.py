"""One thread's share of a matrix product, by AMX's tiles.

A number of float32 is the sum of three of bfloat16, which the tiles multiply exactly and add up in float32, at many
times the rate of float32's own instructions. Of the nine products of two numbers' pieces the three smallest are left
out, each at most 2^-26 of the whole: less than float32 rounds off. Kernels that a checkpoint stores in bfloat16 are
one piece each and take three products; which they are is seen while they are laid out.
"""

from __future__ import annotations

from numba import types

from jaxpaint.tiles.instructions import (
    add_row,
    clear,
    configure,
    load_left,
    load_right,
    multiply,
    release,
    split,
    store,
    weave_first,
    weave_second,
    weave_third,
)
from jaxpaint.tiles.native import compiled, write, write_word

TILE = 16  # rows, and columns of float32
DEPTH = 32  # of bfloat16 in a tile's row
BYTES = 1024  # of a tile
ITEM = 4  # bytes of a float32
PIECES = 3
SHAPES_BYTES = 64
# Of the right side's numbers, laid out: what the second cache holds beside all else, of two threads that share one.
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


@compiled(*[types.int64] * 5, result=types.int64)
def _lay_out(kernel: int, stride: int, depth: int, width: int, target: int) -> int:
    """Columns as tiles of 16, 32 numbers deep, by pairs of rows; piece after piece, whose number it returns."""
    panel_bytes = depth * 2 * TILE
    pieces = 0
    left = 1
    while left and pieces < PIECES:
        left = 0
        for pair in range(depth // 2):
            upper = kernel + 2 * pair * stride
            lower = upper + stride
            at = target + pair * 64
            for _ in range(width // TILE):
                if pieces == 0:
                    left |= weave_first(upper, lower, at)
                elif pieces == 1:
                    left |= weave_second(upper, lower, at)
                else:
                    weave_third(upper, lower, at)
                upper += TILE * ITEM
                lower += TILE * ITEM
                at += panel_bytes
        target += width * depth * 2
        pieces += 1
    return pieces


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


@compiled(*[types.int64] * 5)
def _multiply(left: int, right: int, depth: int, pieces: int, piece_bytes: int) -> None:
    """Sums of two tiles of rows by two of columns, left in their tiles."""
    panel_bytes = depth * 2 * TILE
    clear_0()
    clear_1()
    clear_2()
    clear_3()
    for _ in range(depth // DEPTH):
        for piece in range(pieces):
            load_right_0(right + piece * piece_bytes, 64)
            load_right_1(right + piece * piece_bytes + panel_bytes, 64)
            for other in range(PIECES - piece):
                load_left_0(left + other * 2 * BYTES, 64)
                load_left_1(left + other * 2 * BYTES + BYTES, 64)
                multiply_0()
                multiply_1()
                multiply_2()
                multiply_3()
        left += 2 * BYTES * PIECES
        right += BYTES


@compiled(*[types.int64] * 3)
def _write(at: int, lower: int, stride: int) -> None:
    """The four sums to two times 16 rows of 32 columns, `lower` bytes apart."""
    store_0(at, stride)
    store_1(at + TILE * ITEM, stride)
    store_2(at + lower, stride)
    store_3(at + lower + TILE * ITEM, stride)


@compiled(*[types.int64] * 5)
def _add_rows(source: int, at: int, stride: int, first: int, last: int) -> None:
    for row in range(first, last):
        for half in range(0, 2 * TILE * ITEM, TILE * ITEM):
            add_row(source + row * 2 * TILE * ITEM + half, at + row * stride + half)


@compiled(types.int64, types.int64, result=types.int64)
def _block(depth: int, width: int) -> int:
    """Columns that are laid out at once."""
    return min(width, max(2 * TILE, BLOCK_BYTES // 2 // depth // (2 * TILE) * 2 * TILE))


@compiled(types.int64, types.int64, result=types.int64)
def scratch_bytes(inner: int, width: int) -> int:
    """What `multiply_share` needs for so many columns."""
    depth = min(inner, DEEPEST)
    return PIECES * (_block(depth, width) + 2 * TILE) * depth * 2 + 4 * BYTES + SHAPES_BYTES


@compiled(*[types.int64] * 10)
def multiply_share(
    x: int,
    kernel: int,
    out: int,
    inner: int,
    columns: int,
    first_row: int,
    last_row: int,
    first: int,
    last: int,
    scratch: int,
) -> None:
    """Writes `out[first_row:last_row, first:last]` of `x @ kernel`, [rows, inner] by [inner, columns], in float32.

    `inner` and the columns are multiples of 32, `scratch` begins a cache line. What is not finite gives NaN.
    """
    deepest = min(inner, DEEPEST)
    block = _block(deepest, last - first)
    right = scratch
    left = right + PIECES * block * deepest * 2
    sums = left + PIECES * 2 * TILE * deepest * 2
    shapes = sums + 4 * BYTES
    shaped = 0
    x_stride, stride = inner * ITEM, columns * ITEM
    for start in range(first, last, block):
        width = min(block, last - start)
        for above in range(0, inner, deepest):
            depth = min(deepest, inner - above)
            pieces = _lay_out(kernel + above * stride + start * ITEM, stride, depth, width, right)
            for row in range(first_row, last_row, 2 * TILE):
                rows = min(TILE, last_row - row)
                if rows != shaped:
                    _shape_tiles(rows, shapes)
                    shaped = rows
                # Of the last rows the lower tile may do again what the upper does.
                apart = min(TILE, last_row - rows - row)
                source = x + row * x_stride + above * ITEM
                _take_rows(source, x_stride, depth, rows, left)
                _take_rows(source + apart * x_stride, x_stride, depth, rows, left + BYTES)
                at = out + row * stride + start * ITEM
                for panel in range(0, width // TILE, 2):
                    _multiply(left, right + panel * depth * 2 * TILE, depth, pieces, width * depth * 2)
                    if above:  # sums of sums round less than one sum of all
                        _write(sums, 2 * BYTES, 2 * TILE * ITEM)
                        _add_rows(sums, at, stride, 0, rows)
                        _add_rows(sums + 2 * BYTES, at + apart * stride, stride, rows - apart, rows)
                    else:
                        _write(at, apart * stride, stride)
                    at += 2 * TILE * ITEM
    release()

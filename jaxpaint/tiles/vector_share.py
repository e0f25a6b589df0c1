"""One thread's share of a matrix product, by vectors: as `jaxpaint.tiles.share`, for processors without tiles.

Numbers of a kernel are bfloat16, which is float32 without its last digits: the product in float32 is what it is of
kernels in float32, which take twice the memory. Where vectors multiply bfloat16, rows of it are multiplied so.
"""

from __future__ import annotations

from numba import types

from jaxpaint.base.machine import instructions
from jaxpaint.tiles.instructions import clear_row, copy_row, narrow_row
from jaxpaint.tiles.native import compiled, read_word, write_word
from jaxpaint.tiles.vectors import multiply, turn

WIDE = "avx512f" in instructions()  # vectors of sixteen numbers, and twice the registers for them
OF_PAIRS = "avx512_bf16" in instructions()
HEIGHTS = (1, 2, 4, 6, 8, 12) if WIDE else (1, 2, 4, 5)  # rows at once, as many as registers hold sums of
MOST = HEIGHTS[-1]
PAIR = 32  # columns of a kernel that lie together
DEPTH = 32  # inner numbers that do
ITEM, NARROW, HALF = 4, 2, 64
SUMS_BYTES = MOST * PAIR * ITEM
# Numbers that are added up in one sum; sums of those round less than one sum of all.
CHAIN = 64
# Of rows, read for all columns before what follows: what the first cache holds of them beside all else.
DEEPEST = 576
# Of a kernel, read for all rows before what follows: what the second cache holds.
BLOCK_BYTES = 1 << 19

multiply_wide = multiply(HEIGHTS, 2 if WIDE else 1, of_pairs=False)
multiply_pairs = multiply(HEIGHTS, 2 if WIDE else 1, of_pairs=OF_PAIRS)


@compiled(*[types.int64] * 6)
def _take_words(x: int, stride: int, words: int, rows: int, height: int, target: int) -> None:
    """Of each row a word, and then the next of each, as many as the height; rows beyond those are zeros."""
    turned = rows // 4 * 4
    for row in range(0, turned, 4):
        for word in range(0, words, 16):
            source = x + row * stride + word * ITEM
            turn(source, stride, target + (word * height + row) * ITEM, height * ITEM)
    for row in range(turned, height):
        at = target + row * ITEM
        if row < rows:
            source = x + row * stride
            for word in range(words):
                write_word(at + word * height * ITEM, read_word(source + word * ITEM))
        else:
            for word in range(words):
                write_word(at + word * height * ITEM, 0)


@compiled(*[types.int64] * 6)
def _take_widened(x: int, stride: int, words: int, rows: int, height: int, target: int) -> None:
    """As `_take_words` of bfloat16, two in a word, as float32."""
    for row in range(height):
        at = target + row * ITEM
        source = x + min(row, rows - 1) * stride
        for word in range(words):
            both = read_word(source + word * ITEM)
            write_word(at + 2 * word * height * ITEM, both << 16)
            write_word(at + (2 * word + 1) * height * ITEM, both & 0xFFFF0000)


@compiled(types.int64, result=types.int64)
def _height(rows: int) -> int:
    """The least at which so many fit."""
    for height in HEIGHTS:
        if rows <= height:
            return height
    return MOST


@compiled(*[types.int64] * 4, result=types.int64)
def _of_half(at: int, half: int, stride: int, item: int) -> int:
    return at + half // 2 * stride + half % 2 * (item * PAIR // 2)


@compiled(types.int64, result=types.int64)
def scratch_bytes(inner: int) -> int:
    """What `multiply_share` needs."""
    return SUMS_BYTES + MOST * inner * ITEM


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
    """As `jaxpaint.tiles.share.multiply_share`; what is not finite gives what it gives in float32."""
    narrow = out_item != ITEM
    taken = last_row - first_row
    few = taken <= MOST
    # A few rows read the kernel once, in its own order; of bfloat16 no sum is left unfinished.
    parts = 1 if narrow or few else -(-inner // DEEPEST)
    deepest = -(-inner // parts // CHAIN) * CHAIN
    block = min(last - first, max(PAIR, BLOCK_BYTES // 2 // deepest // PAIR * PAIR))
    if few:
        block = last - first
    sums, panel = scratch, scratch + SUMS_BYTES
    x_stride, stride = inner * item, columns * out_item
    as_pairs = OF_PAIRS and item != ITEM
    unit = ITEM if not as_pairs else NARROW  # of a number of x
    for start in range(first, last, block):
        width = min(block, last - start)
        for above in range(0, inner, deepest):
            depth = min(deepest, inner - above)
            for row in range(first_row, last_row, MOST):
                rows = min(MOST, last_row - row)
                height = _height(rows)
                source = x + row * x_stride + above * item
                if item == ITEM:
                    _take_words(source, x_stride, depth, rows, height, panel)
                elif as_pairs:
                    _take_words(source, x_stride, depth // 2, rows, height, panel)
                else:
                    _take_widened(source, x_stride, depth // 2, rows, height, panel)
                at = out + row * stride + start * out_item
                for pair in range(start, start + width, PAIR):
                    for half in range(2 * height):
                        if above and half < 2 * rows:
                            copy_row(_of_half(at, half, stride, out_item), sums + half * HALF)
                        else:
                            clear_row(sums + half * HALF)
                    for low in range(0, depth, CHAIN):
                        deep = min(CHAIN, depth - low) // DEPTH
                        left = panel + low * height * unit
                        right = kernel + (pair * inner + (above + low) * PAIR) * NARROW
                        if as_pairs:
                            multiply_pairs(height, left, right, deep, sums)
                        else:
                            multiply_wide(height, left, right, deep, sums)
                    for half in range(2 * rows):
                        to = _of_half(at, half, stride, out_item)
                        if narrow:
                            narrow_row(sums + half * HALF, to)
                        else:
                            copy_row(sums + half * HALF, to)
                    at += PAIR * out_item

"""Products of rows by a packed kernel with vectors, as functions that numba compiles: sums stay in registers.

Vectors are of sixteen numbers of float32, of which a processor with AVX2 makes two of eight. A word of a kernel is two
inner numbers of a column (`jaxpaint.tiles.packed`): float32 with zeros below each are what they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from jaxpaint.tiles.instructions import FLOATS, I32, I64, WORDS, all_words, at, function, loaded

TILE_BYTES, ROW_BYTES, WORD_BYTES = 1024, 64, 4
UNROLLED = 2  # words of a column in one round of the loop


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite does not name."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


PAIRS = ir.VectorType(_BFloat(), 32)


def multiply(heights: Sequence[int], together: int, *, of_pairs: bool) -> Any:
    """Adds to sums what rows of x give with 32 columns of a kernel.

    A function of how many rows, one of the heights, of the addresses of x and the kernel's columns, of the depth in 32
    inner numbers, and of the address of sums, whose rows are of 32 numbers. Of x there are as many numbers of float32
    as rows for each inner one, or as many words of two of bfloat16 (`of_pairs`) for each two. `together` are tiles of
    columns, 2 or 1, whose sums registers hold.
    """

    @intrinsic
    def instruction(_: Any, rows: Any, x: Any, kernel: Any, depth: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
            rows, x, kernel, depth, sums = values
            end = builder.append_basic_block("end")
            choice = builder.switch(rows, end)
            for height in heights:
                case = builder.append_basic_block(f"rows_{height}")
                choice.add_case(ir.Constant(I64, height), case)
                builder.position_at_end(case)
                for tile in range(0, 2, together):
                    right = after(builder, kernel, tile * TILE_BYTES)
                    found = _sums(builder, height, together, x, right, depth, of_pairs=of_pairs)
                    for number, each in enumerate(found):
                        row, beside = divmod(number, together)
                        place = after(builder, sums, (2 * row + tile + beside) * ROW_BYTES)
                        total = builder.fadd(loaded(builder, place, FLOATS), each)
                        builder.store(total, at(builder, place, FLOATS), align=2)
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return instruction


def _sums(builder: Any, rows: int, tiles: int, x: Any, kernel: Any, depth: Any, *, of_pairs: bool) -> list[Any]:
    """Of each row the sums of sixteen columns, or of twice as many."""
    words_of_x, kind = (1, WORDS) if of_pairs else (2, FLOATS)

    def step(values: list[Any]) -> list[Any]:
        x, kernel, *found = values
        for word in range(UNROLLED):
            places = [after(builder, kernel, tile * TILE_BYTES + word * ROW_BYTES) for tile in range(tiles)]
            words = [loaded(builder, place, WORDS) for place in places]
            for part in range(words_of_x):
                right = words if of_pairs else [_part(builder, each, part) for each in words]
                for row in range(rows):
                    place = ((word * words_of_x + part) * rows + row) * WORD_BYTES
                    left = repeated(builder, after(builder, x, place), kind)
                    for tile in range(tiles):
                        own = row * tiles + tile
                        found[own] = added(builder, found[own], left, right[tile])
        far = UNROLLED * words_of_x * rows * WORD_BYTES
        return [after(builder, x, far), after(builder, kernel, UNROLLED * ROW_BYTES), *found]

    def of_32(values: list[Any]) -> list[Any]:
        x, _, *found = repeat(builder, ir.Constant(I64, 16 // UNROLLED), values, step)
        return [x, after(builder, values[1], 2 * TILE_BYTES), *found]

    nothing = ir.Constant(FLOATS, [0.0] * 16)
    return repeat(builder, depth, [x, kernel, *[nothing] * (rows * tiles)], of_32)[2:]


@intrinsic
def turn(_: Any, source: Any, stride: Any, target: Any, step: Any) -> Any:
    """Of four rows of sixteen words, `stride` bytes apart, writes the first words side by side, `step` on the next."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        source, stride, target, step = values
        rows = []
        for _ in range(4):
            rows.append(loaded(builder, source, WORDS))
            source = builder.add(source, stride)
        turned = []
        for words in ((0, 1), (2, 3)):  # of each four
            # First those of two rows in turn, then of both pairs of rows.
            order = [4 * four + word + 16 * row for four in range(4) for word in words for row in (0, 1)]
            one, other = (_shuffled(builder, rows[row], rows[row + 1], order) for row in (0, 2))
            for first in (0, 2):
                order = [4 * four + first + row + 16 * pair for four in range(4) for pair in (0, 1) for row in (0, 1)]
                turned.append(_shuffled(builder, one, other, order))
        for number in range(16):
            four, word = divmod(number, 4)
            own = _shuffled(builder, turned[word], turned[word], [4 * four + row for row in range(4)])
            builder.store(own, at(builder, target, own.type), align=2)
            target = builder.add(target, step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _shuffled(builder: Any, one: Any, other: Any, order: Sequence[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def after(builder: Any, address: Any, number: int) -> Any:
    return builder.add(address, ir.Constant(I64, number))


def _part(builder: Any, words: Any, part: int) -> Any:
    """The first or second number of each word."""
    bits = builder.and_(words, all_words(0xFFFF0000)) if part else builder.shl(words, all_words(16))
    return builder.bitcast(bits, FLOATS)


def repeated(builder: Any, address: Any, kind: Any) -> Any:
    one = loaded(builder, address, kind.element)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), all_words(0))


def added(builder: Any, sums: Any, left: Any, right: Any) -> Any:
    if left.type == FLOATS:
        return builder.call(function(builder, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3), [left, right, sums])
    called = function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [FLOATS, PAIRS, PAIRS])
    return builder.call(called, [sums, builder.bitcast(left, PAIRS), builder.bitcast(right, PAIRS)])


def repeat(builder: Any, times: Any, first: list[Any], step: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """What `step` leaves of the values, done at least once."""
    before = builder.block
    begin, end = builder.append_basic_block("repeat"), builder.append_basic_block("done")
    builder.branch(begin)
    builder.position_at_end(begin)
    number, *values = (builder.phi(each.type) for each in (ir.Constant(I64, 0), *first))
    then = [after(builder, number, 1), *step(list(values))]
    for each, came, goes in zip((number, *values), (ir.Constant(I64, 0), *first), then, strict=True):
        each.add_incoming(came, before)
        each.add_incoming(goes, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", then[0], times), begin, end)
    builder.position_at_end(end)
    return then[1:]

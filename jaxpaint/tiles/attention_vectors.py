"""Attention's steps with vectors, as functions that numba compiles: queries lie side by side, sixteen in a vector.

So softmax's maxima and sums are of whole vectors, and keys and values are read number by number, as they lie.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from jaxpaint.base.machine import instructions
from jaxpaint.tiles.instructions import FLOATS, HALVES, I8, WORDS, all_words, at, function, loaded
from jaxpaint.tiles.vectors import WORD_BYTES, added, after, repeat, repeated

WIDE, OF_PAIRS = "avx512f" in instructions(), "avx512_bf16" in instructions()
ROWS, VECTORS = (8, 3) if WIDE else (4, 1)  # of keys or of a head's numbers, and of queries: as many as registers hold
VECTOR_BYTES = 64
LOWEST = -1e30
# Of a natural exponential: 2 to a whole number times a polynomial of the rest (Cephes, expf).
LEAST, LOG2_E, LN2_HIGH, LN2_LOW = -87.3, 1.44269504088896341, 0.693359375, -2.12194440e-4
TERMS = 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1


def _all(number: float) -> ir.Constant:
    return ir.Constant(FLOATS, [number] * 16)


def _products(builder: Any, vectors: int, kind: Any, left: Any, step: Any, right: Any, depth: Any) -> list[Any]:
    """Sums over the depth of `ROWS` numbers on the left, or words of two, each by all queries' on the right."""

    def of_one(values: list[Any]) -> list[Any]:
        left, right, *found = values
        parts = [loaded(builder, after(builder, right, each * VECTOR_BYTES), kind) for each in range(vectors)]
        for row in range(ROWS):
            number = repeated(builder, after(builder, left, row * WORD_BYTES), kind)
            for each in range(vectors):
                own = row * vectors + each
                found[own] = added(builder, found[own], number, parts[each])
        return [builder.add(left, step), after(builder, right, vectors * VECTOR_BYTES), *found]

    return repeat(builder, depth, [left, right, *[_all(0.0)] * (ROWS * vectors)], of_one)[2:]


def _by_vectors(generate: Any, kind: Any) -> Any:
    """A function of how many vectors of queries there are, and of six addresses or numbers."""

    @intrinsic
    def instruction(_: Any, vectors: Any, left: Any, step: Any, right: Any, depth: Any, out: Any, more: Any) -> Any:
        def generated(context: Any, builder: Any, __: Any, values: Any) -> Any:
            end = builder.append_basic_block("end")
            choice = builder.switch(values[0], end)
            for count in range(1, VECTORS + 1):
                case = builder.append_basic_block(f"vectors_{count}")
                choice.add_case(ir.Constant(values[0].type, count), case)
                builder.position_at_end(case)
                generate(builder, count, _products(builder, count, kind, *values[1:5]), *values[5:])
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generated

    return instruction


def _written(builder: Any, vectors: int, found: list[Any], out: Any, _: Any) -> None:
    for number, each in enumerate(found):
        builder.store(each, at(builder, after(builder, out, number * VECTOR_BYTES), FLOATS), align=4)


def _mixed(builder: Any, vectors: int, found: list[Any], out: Any, shrunk: Any) -> None:
    factors = [loaded(builder, after(builder, shrunk, each * VECTOR_BYTES), FLOATS) for each in range(vectors)]
    for number, each in enumerate(found):
        place = after(builder, out, number * VECTOR_BYTES)
        total = added(builder, each, loaded(builder, place, FLOATS), factors[number % vectors])
        builder.store(total, at(builder, place, FLOATS), align=4)


# Products of `ROWS` numbers, from one step of the depth to the next `step` bytes, with those of all queries, to `out`.
score = _by_vectors(_written, FLOATS)
# As `score`, added to what is there times a factor for each query.
mix = _by_vectors(_mixed, FLOATS)
# The same of two numbers of bfloat16 in a word.
score_pairs, mix_pairs = (_by_vectors(generate, WORDS if OF_PAIRS else FLOATS) for generate in (_written, _mixed))


@intrinsic
def soften(
    _: Any, scores: Any, stride: Any, visible: Any, width: Any, keys: Any, scale: Any, state: Any, size: Any
) -> Any:
    """Of sixteen queries' scores with some keys their weights, in place, and what becomes of what is known of others.

    Scores are `stride` bytes apart, and so many are `keys`. `visible` is the address of a byte for each, `width` apart,
    or 0 where all are. `scale` is that of a number to scale them with. The state is of three vectors, `size` apart: the
    largest score so far, the sum of weights, and by what earlier weights shrink.
    """

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        scores, stride, visible, width, keys, scale, state, size = values
        factor = repeated(builder, scale, FLOATS)
        sums, shrunk = builder.add(state, size), builder.add(builder.add(state, size), size)
        before = loaded(builder, state, FLOATS)
        masked = builder.icmp_unsigned("!=", visible, ir.Constant(visible.type, 0))

        def largest_of(*, masked: bool) -> Any:
            def one(values: list[Any]) -> list[Any]:
                at_scores, at_visible, most = values
                each = builder.fmul(loaded(builder, at_scores, FLOATS), factor)
                if masked:
                    seen = builder.load(at(builder, at_visible, ir.VectorType(I8, 16)), align=1)
                    seen = builder.icmp_unsigned("!=", seen, ir.Constant(seen.type, [0] * 16))
                    each = builder.select(seen, each, _all(LOWEST))
                builder.store(each, at(builder, at_scores, FLOATS), align=4)
                most = builder.select(builder.fcmp_ordered(">", most, each), most, each)
                return [builder.add(at_scores, stride), builder.add(at_visible, width), most]

            return repeat(builder, keys, [scores, visible, before], one)[2]

        with builder.if_else(masked) as (some, whole):
            with some:
                of_some = largest_of(masked=True)
                after_some = builder.block
            with whole:
                of_all = largest_of(masked=False)
                after_all = builder.block
        most = builder.phi(FLOATS)
        most.add_incoming(of_some, after_some)
        most.add_incoming(of_all, after_all)

        def weigh(values: list[Any]) -> list[Any]:
            at_scores, total = values
            weight = _exponential(builder, builder.fsub(loaded(builder, at_scores, FLOATS), most))
            builder.store(weight, at(builder, at_scores, FLOATS), align=4)
            return [builder.add(at_scores, stride), builder.fadd(total, weight)]

        less = _exponential(builder, builder.fsub(before, most))
        total = builder.fmul(loaded(builder, sums, FLOATS), less)
        total = repeat(builder, keys, [scores, total], weigh)[1]
        for place, value in ((state, most), (sums, total), (shrunk, less)):
            builder.store(value, at(builder, place, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


def _exponential(builder: Any, x: Any) -> Any:
    """Of numbers that are not above 0."""
    down = function(builder, "llvm.rint.v16f32", FLOATS, [FLOATS])
    far = builder.fcmp_ordered("<", x, _all(LEAST))
    near = builder.select(far, _all(LEAST), x)
    whole = builder.call(down, [builder.fmul(near, _all(LOG2_E))])
    rest = added(builder, near, whole, _all(-LN2_HIGH))
    rest = added(builder, rest, whole, _all(-LN2_LOW))
    series = _all(TERMS[0])
    for term in TERMS[1:]:
        series = added(builder, _all(term), series, rest)
    series = added(builder, builder.fadd(rest, _all(1.0)), series, builder.fmul(rest, rest))
    bits = builder.shl(builder.fptosi(whole, WORDS), all_words(23))
    found = builder.bitcast(builder.add(builder.bitcast(series, WORDS), bits), FLOATS)
    return builder.select(far, _all(0.0), found)


@intrinsic
def divide(_: Any, numbers: Any, by: Any) -> Any:
    """Sixteen numbers by sixteen; by 0 as if it was 1."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        below = loaded(builder, values[1], FLOATS)
        below = builder.select(builder.fcmp_ordered("==", below, _all(0.0)), _all(1.0), below)
        found = builder.fdiv(loaded(builder, values[0], FLOATS), below)
        builder.store(found, at(builder, values[0], FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def fill(_: Any, target: Any) -> Any:
    """Sixteen times the lowest score."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(_all(LOWEST), at(builder, values[0], FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def pair_weights(_: Any, first: Any, second: Any, target: Any) -> Any:
    """Of two times sixteen numbers, none below 0, words of two of bfloat16, the nearest to them."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        one, other = (builder.add(loaded(builder, each, WORDS), all_words(0x8000)) for each in values[:2])
        words = builder.or_(builder.lshr(one, all_words(16)), builder.and_(other, all_words(0xFFFF0000)))
        builder.store(words, at(builder, values[2], WORDS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def pair_rows(_: Any, first: Any, second: Any, target: Any) -> Any:
    """Of two times sixteen numbers of bfloat16 words of two."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        one, other = (builder.zext(loaded(builder, each, HALVES), WORDS) for each in values[:2])
        words = builder.or_(one, builder.shl(other, all_words(16)))
        builder.store(words, at(builder, values[2], WORDS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def widen_row(_: Any, source: Any, target: Any) -> Any:
    """Sixteen numbers of bfloat16 as float32."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        words = builder.zext(loaded(builder, values[0], HALVES), WORDS)
        builder.store(builder.shl(words, all_words(16)), at(builder, values[1], WORDS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate

"""AMX's tiles and vectors of AVX-512, as functions that numba compiles to one instruction or a few.

A tile is sixteen rows of 64 bytes: 16 x 16 numbers of float32, or 16 x 32 of bfloat16. There are eight: sums in 0 to 3,
of the left side 4 and 5, of the right side 6 and 7. Addresses are integers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64, VOID = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.VoidType()
FLOATS = ir.VectorType(ir.FloatType(), 16)
WORDS = ir.VectorType(I32, 16)
HALVES = ir.VectorType(I16, 16)


def function(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def loaded(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(at(builder, address, kind), align=2)


def all_words(number: int) -> ir.Constant:
    return ir.Constant(WORDS, [number] * 16)


def _of_tiles(name: str, *tiles: int) -> Any:
    @intrinsic
    def instruction(_: Any) -> Any:
        def generate(context: Any, builder: Any, *__: Any) -> Any:
            called = function(builder, f"llvm.x86.{name}", VOID, [I8] * len(tiles))
            builder.call(called, [ir.Constant(I8, tile) for tile in tiles])
            return context.get_dummy_value()

        return types.void(), generate

    return instruction


def _of_memory(name: str, tile: int) -> Any:
    """A function of an address and of the bytes from one row to the next."""

    @intrinsic
    def instruction(_: Any, address: Any, stride: Any) -> Any:
        def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
            called = function(builder, f"llvm.x86.{name}", VOID, [I8, I8.as_pointer(), I64])
            builder.call(called, [ir.Constant(I8, tile), at(builder, values[0], I8), values[1]])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return instruction


release = _of_tiles("tilerelease")
clear = tuple(_of_tiles("tilezero", tile) for tile in range(4))
store = tuple(_of_memory("tilestored64", tile) for tile in range(4))
load_left = tuple(_of_memory("tileloadd64", tile) for tile in (4, 5))
load_right = tuple(_of_memory("tileloadd64", tile) for tile in (6, 7))
# Sums 0 to 3 are of left 4 and 5 by right 6 and 7.
multiply = tuple(_of_tiles("tdpbf16ps", sums, 4 + sums // 2, 6 + sums % 2) for sums in range(4))


@intrinsic
def configure(_: Any, address: Any) -> Any:
    """Takes the shapes of tiles from 64 bytes there."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.call(function(builder, "llvm.x86.ldtilecfg", VOID, [I8.as_pointer()]), [at(builder, values[0], I8)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _piece(builder: Any, x: Any, number: int) -> tuple[Any, Any]:
    """Of sixteen numbers their first, second or third bfloat16, as words whose lower halves are nothing; the rest.

    The three add up to the number: each leaves a rest of eight digits less, the third none of a finite number.
    """
    for each in range(number + 1):
        bits = builder.bitcast(x, WORDS)
        if each < 2:  # to the nearest; the last is cut, which keeps NaN what it is
            odd = builder.and_(builder.lshr(bits, all_words(16)), all_words(1))
            bits = builder.add(bits, builder.add(all_words(0x7FFF), odd))
        piece = builder.and_(bits, all_words(0xFFFF0000))
        x = builder.fsub(x, builder.bitcast(piece, FLOATS))
    return piece, x


@intrinsic
def split(_: Any, source: Any, target: Any, step: Any) -> Any:
    """Writes the three pieces of sixteen numbers, `step` bytes from one piece to the next."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        address, target, step = values
        x = loaded(builder, address, FLOATS)
        for number in range(3):
            piece, _ = _piece(builder, x, number)
            halves = builder.trunc(builder.lshr(piece, all_words(16)), HALVES)
            builder.store(halves, at(builder, target, HALVES), align=2)
            target = builder.add(target, step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def add_row(_: Any, source: Any, target: Any) -> Any:
    """Sixteen numbers to sixteen."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        total = builder.fadd(*(loaded(builder, address, FLOATS) for address in values))
        builder.store(total, at(builder, values[1], FLOATS), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_row(_: Any, source: Any, target: Any) -> Any:
    """Sixteen numbers."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(loaded(builder, values[0], FLOATS), at(builder, values[1], FLOATS), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def clear_row(_: Any, target: Any) -> Any:
    """Sixteen zeros."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(ir.Constant(FLOATS, [0.0] * 16), at(builder, values[0], FLOATS), align=2)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def narrow_row(_: Any, source: Any, target: Any) -> Any:
    """Sixteen numbers as bfloat16, each to the nearest."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        x = loaded(builder, values[0], FLOATS)
        nearest, _ = _piece(builder, x, 0)
        kept = builder.select(builder.fcmp_unordered("uno", x, x), all_words(0x7FC00000), nearest)
        halves = builder.trunc(builder.lshr(kept, all_words(16)), HALVES)
        builder.store(halves, at(builder, values[1], HALVES), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def fetch(_: Any, address: Any) -> Any:
    """Asks for the 2,048 bytes there, which will be read soon: for the second cache."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        of_reads, near, of_data = ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)
        asked = function(builder, "llvm.prefetch.p0i8", VOID, [I8.as_pointer(), I32, I32, I32])
        for line in range(0, 2048, 64):
            place = at(builder, builder.add(values[0], ir.Constant(I64, line)), I8)
            builder.call(asked, [place, of_reads, near, of_data])
        return context.get_dummy_value()

    return types.void(types.int64), generate

"""AMX's tiles as functions of plain memory, for one thread: what is compiled for them runs where there are none.

`emulate()` puts them in place of `jaxpaint.tiles.instructions`; call it before anything is compiled.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

TILE, TILES = 1024, 8
MEMORY = ctypes.create_string_buffer(TILE * TILES + 64 + 64)
FIRST = -(-ctypes.addressof(MEMORY) // 64) * 64
SHAPES = FIRST + TILE * TILES
ROWS = 48  # where of the shapes each tile's rows are


@intrinsic
def _bytes(_: Any, address: Any) -> Any:
    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), generate


@njit
def _copy(source, target, count):
    read, written = carray(_bytes(source), (count,)), carray(_bytes(target), (count,))
    for each in range(count):
        written[each] = read[each]


@njit
def _rows(tile):
    return carray(_bytes(SHAPES + ROWS + tile), (1,))[0]


@njit
def configure(address):
    _copy(address, SHAPES, 64)


@njit
def release():
    pass


def _clear(tile: int) -> Any:
    @njit
    def clear():
        memory = carray(_bytes(FIRST + tile * TILE), (TILE,))
        for each in range(TILE):
            memory[each] = 0

    return clear


def _load(tile: int) -> Any:
    @njit
    def load(address, stride):
        for row in range(_rows(tile)):
            _copy(address + row * stride, FIRST + tile * TILE + row * 64, 64)

    return load


def _store(tile: int) -> Any:
    @njit
    def store(address, stride):
        for row in range(_rows(tile)):
            _copy(FIRST + tile * TILE + row * 64, address + row * stride, 64)

    return store


@njit
def _wide(low, high):
    word = np.empty(1, np.uint32)
    word[0] = np.uint32(low) << np.uint32(16) | np.uint32(high) << np.uint32(24)
    return word.view(np.float32)[0]


def _multiply(sums: int, left: int, right: int) -> Any:
    @njit
    def multiply():
        a, b = carray(_bytes(FIRST + left * TILE), (16, 64)), carray(_bytes(FIRST + right * TILE), (16, 64))
        total = carray(_bytes(FIRST + sums * TILE), (TILE,)).view(np.float32)
        for row in range(_rows(left)):
            for pair in range(32):
                number = _wide(a[row, 2 * pair], a[row, 2 * pair + 1])
                for column in range(16):
                    at = 4 * column + 2 * (pair % 2)
                    total[16 * row + column] += number * _wide(b[pair // 2, at], b[pair // 2, at + 1])

    return multiply


def emulate() -> None:
    """Raises nothing; not undone."""
    from jaxpaint import tiles
    from jaxpaint.tiles import instructions

    tiles.multiplied_by = lambda: "tiles"
    instructions.configure, instructions.release = configure, release
    instructions.clear, instructions.store = tuple(map(_clear, range(4))), tuple(map(_store, range(4)))
    instructions.load_left, instructions.load_right = (_load(4), _load(5)), (_load(6), _load(7))
    instructions.multiply = tuple(_multiply(sums, 4 + sums // 2, 6 + sums % 2) for sums in range(4))

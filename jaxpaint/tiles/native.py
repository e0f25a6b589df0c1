"""What compiled code asks of memory, of C and of other threads; addresses are integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.core.typing import signature
from numba.extending import intrinsic

I8, I32, I64, VOID = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VoidType()


# Whether what is compiled is kept: only where it was said for whom (`jaxpaint.tiles`).
KEPT = bool(config.CACHE_DIR)


def compiled(*arguments: Any, result: Any = types.void) -> Any:
    """A decorator of functions of integers that no Python runs in."""
    return njit(result(*arguments), nogil=True, error_model="numpy", cache=KEPT)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def read(_: Any, address: Any) -> Any:
    """Eight bytes as an integer."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.load(_at(builder, values[0], I64))

    return types.int64(types.int64), generate


@intrinsic
def read_word(_: Any, address: Any) -> Any:
    """Four bytes as an integer."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.sext(builder.load(_at(builder, values[0], I32)), I64)

    return types.int64(types.int64), generate


@intrinsic
def read_byte(_: Any, address: Any) -> Any:
    """One byte as an integer that is not negative."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.zext(builder.load(_at(builder, values[0], I8)), I64)

    return types.int64(types.int64), generate


@intrinsic
def write(_: Any, address: Any, number: Any) -> Any:
    """Eight bytes."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(values[1], _at(builder, values[0], I64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def write_word(_: Any, address: Any, number: Any) -> Any:
    """Four bytes."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(builder.trunc(values[1], I32), _at(builder, values[0], I32))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def write_byte(_: Any, address: Any, number: Any) -> Any:
    """One byte."""

    def generate(context: Any, builder: Any, __: Any, values: Any) -> Any:
        builder.store(builder.trunc(values[1], I8), _at(builder, values[0], I8))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def add(_: Any, address: Any, number: Any) -> Any:
    """Adds to the eight bytes there, whatever other threads do meanwhile; what was there before."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, values[0], I64), values[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call(_: Any, function: Any, argument: Any) -> Any:
    """A C function of one pointer that gives one."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        return builder.call(_at(builder, values[0], ir.FunctionType(I64, [I64])), [values[1]])

    return types.int64(types.int64, types.int64), generate


def _of_c(name: str, arguments: int) -> Any:
    """A function of C's library, of integers and giving one; kept code finds it by name."""

    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        kind = ir.FunctionType(I64, [I64] * arguments)
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), values)

    return generate


@intrinsic
def allocate(_: Any, alignment: Any, size: Any) -> Any:
    """Bytes, a multiple of the alignment; none left gives 0."""
    return types.int64(types.int64, types.int64), _of_c("aligned_alloc", 2)


@intrinsic
def free(_: Any, address: Any) -> Any:
    return types.int64(types.int64), _of_c("free", 1)


@intrinsic
def give_way(_: Any) -> Any:
    """To other threads that wait for a processor."""
    return types.int64(), _of_c("sched_yield", 0)


def address_of_text(text: str) -> Any:
    """A function that gives the address of the text, ended as C ends it."""

    @intrinsic
    def address(_: Any) -> Any:
        def generate(context: Any, builder: Any, *__: Any) -> Any:
            return builder.ptrtoint(context.insert_const_string(builder.module, text), I64)

        return types.int64(), generate

    return address


def address_of(implementation: Callable[[int], None]) -> Any:
    """A function that gives the address of the implementation as a C function, which belongs to the code it is in.

    So code that is kept holds no address of the process that compiled it.
    """

    @intrinsic
    def address(_: Any) -> Any:
        def generate(context: Any, builder: Any, *__: Any) -> Any:
            inner = context.compile_subroutine(builder, implementation, signature(types.void, types.int64))
            name = f"{implementation.__name__}.c"
            function = ir.Function(builder.module, ir.FunctionType(VOID, [I64]), name)
            function.linkage = "internal"
            body = ir.IRBuilder(function.append_basic_block())
            context.call_internal_no_propagate(body, inner.fndesc, inner.signature, [function.args[0]])
            body.ret_void()
            return builder.ptrtoint(function, I64)

        return types.int64(), generate

    return address

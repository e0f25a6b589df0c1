"""What XLA's foreign calls say, and what they are told: offsets are those of `xla/ffi/api/c_api.h`.

Its layout holds for a version of the interface (`MAJOR`, `MINOR`).
"""

from __future__ import annotations

from numba import types

from jaxpaint.tiles.native import address_of_text, call, compiled, read, read_word, write, write_word

MAJOR, MINOR = 0, 1
METADATA, EXECUTE, RESOURCE_EXHAUSTED = 1, 3, 8
# XLA_FFI_CallFrame
EXTENSION, API, CONTEXT, STAGE, COUNT, ARGUMENTS, RESULTS = 8, 16, 24, 32, 56, 72, 112
# XLA_FFI_Extension_Base, XLA_FFI_Metadata_Extension, XLA_FFI_Metadata
EXTENSION_TYPE, ITS_METADATA, MAJOR_VERSION, MINOR_VERSION = 8, 24, 24, 28
# XLA_FFI_Buffer
DTYPE, DATA, RANK, DIMENSIONS = 16, 24, 32, 40
BFLOAT16 = 16  # of XLA_FFI_DataType
# XLA_FFI_Api
CREATE_ERROR, SCHEDULE, NUMBER_OF_THREADS = 48, 136, 144

ASKED_BYTES = 64  # for what the interface is asked

no_memory = address_of_text("RESOURCE_EXHAUSTED: Out of memory for a matrix product.")


@compiled(types.int64, result=types.int64)
def runs(frame: int) -> int:
    """Whether this call is to compute; one that asks for the version is answered."""
    extension = read(frame + EXTENSION)
    if extension != 0 and read_word(extension + EXTENSION_TYPE) == METADATA:
        metadata = read(extension + ITS_METADATA)
        write_word(metadata + MAJOR_VERSION, MAJOR)
        write_word(metadata + MINOR_VERSION, MINOR)
        return 0
    return read_word(frame + STAGE) == EXECUTE


@compiled(types.int64, result=types.int64)
def arguments(frame: int) -> int:
    """How many there are."""
    return read(frame + COUNT)


@compiled(types.int64, types.int64, result=types.int64)
def argument(frame: int, number: int) -> int:
    return read(read(frame + ARGUMENTS) + 8 * number)


@compiled(types.int64, result=types.int64)
def result(frame: int) -> int:
    return read(read(frame + RESULTS))


@compiled(types.int64, result=types.int64)
def data(buffer: int) -> int:
    return read(buffer + DATA)


@compiled(types.int64, result=types.int64)
def axes(buffer: int) -> int:
    return read(buffer + RANK)


@compiled(types.int64, types.int64, result=types.int64)
def size(buffer: int, axis: int) -> int:
    return read(read(buffer + DIMENSIONS) + 8 * axis)


@compiled(types.int64, result=types.int64)
def item(buffer: int) -> int:
    """Bytes of a number."""
    return 2 if read_word(buffer + DTYPE) == BFLOAT16 else 4


@compiled(types.int64, types.int64, result=types.int64)
def threads(frame: int, asked: int) -> int:
    """XLA's own for a program's work; XLA_FFI_ThreadPool_NumThreads_Args."""
    found = asked + 32
    write(found, 1)
    write(asked, 32)
    write(asked + 8, 0)
    write(asked + 16, read(frame + CONTEXT))
    write(asked + 24, found)
    call(read(read(frame + API) + NUMBER_OF_THREADS), asked)
    return read(found)


@compiled(*[types.int64] * 4, result=types.int64)
def schedule(frame: int, asked: int, task: int, job: int) -> int:
    """Has another thread do the task; not 0 where none will. XLA_FFI_ThreadPool_Schedule_Args."""
    write(asked, 40)
    write(asked + 8, 0)
    write(asked + 16, read(frame + CONTEXT))
    write(asked + 24, task)
    write(asked + 32, job)
    return call(read(read(frame + API) + SCHEDULE), asked)


@compiled(types.int64, types.int64, result=types.int64)
def error(frame: int, asked: int) -> int:
    """That no memory is left; XLA_FFI_Error_Create_Args."""
    write(asked, 32)
    write(asked + 8, 0)
    write(asked + 16, no_memory())
    write(asked + 24, RESOURCE_EXHAUSTED)
    return call(read(read(frame + API) + CREATE_ERROR), asked)

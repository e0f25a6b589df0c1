"""Matrix products by packed kernels, and attention, on a CPU: by its tiles (AMX) or its vectors (AVX-512, AVX2).

Compiled by numba for the processor that is here, called by XLA on its threads. A kernel that is whole in bfloat16, as
those are that a checkpoint stores so, multiplies float32 exactly, and is read from half of the memory. Tiles multiply
bfloat16 at many times the rate of float32's vectors: there a number of float32 is three of bfloat16.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt16

from jaxpaint.base import machine
from jaxpaint.base.compilation import persistent_cache

TARGET, ATTENTION = "jaxpaint_tiles_product", "jaxpaint_tiles_attention"
TILES = {"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl"}
VECTORS = {"avx2", "fma"}
MULTIPLE = 32  # of sizes that tiles take
HEADS = 16  # of what a head has numbers, for `attention`
UNSAID = 0xFFFF  # of a float32's bits, those that bfloat16 has no room for
# x86-64's arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux gives tiles to a process that asks.
ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18

Packed = UInt16[Array, "*layers columns_of_32 inner_of_32 2 16 32"]

_lock = threading.Lock()


def packs(kernel: Any) -> bool:
    """Whether a kernel [*layers, inner, columns], or its shape, can be `packed` where it is whole in bfloat16."""
    sizes = kernel.shape[-2:]
    return (
        kernel.dtype in (jnp.float32, jnp.bfloat16) and len(sizes) == 2 and not any(size % MULTIPLE for size in sizes)
    )


@jax.jit
def is_whole(numbers: Float[Array, "*shape"]) -> Bool[Array, ""]:
    """Whether bfloat16 has room for all digits of all numbers, which are float32."""
    return (jax.lax.bitcast_convert_type(numbers, jnp.uint32) & UNSAID == 0).all()


@jax.jit
def packed(kernel: Float[Array, "*layers inner columns"]) -> Packed:
    """A kernel that is whole in bfloat16, as tiles read it.

    For each 32 columns and each 32 of the inner numbers there are two tiles, of 16 columns each, whose rows are of two
    inner numbers: those of the first column, of the second one, and so on.
    """
    *layers, inner, columns = kernel.shape
    if kernel.dtype == jnp.bfloat16:
        bits = jax.lax.bitcast_convert_type(kernel, jnp.uint16)
    else:
        bits = jax.lax.shift_right_logical(jax.lax.bitcast_convert_type(kernel, jnp.uint32), jnp.uint32(16))
    apart = bits.astype(jnp.uint16).reshape(*layers, inner // MULTIPLE, 16, 2, columns // MULTIPLE, 2, 16)
    return _turned(apart, (3, 0, 4, 1, 5, 2)).reshape(*layers, columns // MULTIPLE, inner // MULTIPLE, 2, 16, MULTIPLE)


def is_packed(kernel: Any) -> bool:
    """Whether it, or such a shape, is one that was `packed`."""
    return kernel.dtype == jnp.uint16


def unpacked(kernel: Packed) -> Float[Array, "*layers inner columns"]:
    """What was `packed`, in float32."""
    *layers, columns, inner = kernel.shape[:-3]
    bits = _turned(kernel.reshape(*kernel.shape[:-1], 16, 2), (1, 3, 5, 0, 2, 4))
    wide = jax.lax.shift_left(bits.astype(jnp.uint32), jnp.uint32(16))
    return jax.lax.bitcast_convert_type(wide, jnp.float32).reshape(*layers, inner * MULTIPLE, columns * MULTIPLE)


def _turned(apart: Array, order: tuple[int, ...]) -> Array:
    before = apart.ndim - len(order)
    return apart.transpose(*range(before), *(before + axis for axis in order))


@functools.cache
def multiplied_by() -> Literal["tiles", "vectors"] | None:
    """What this process may multiply packed kernels by; what compiles for it may be missing."""
    if platform.machine() != "x86_64":
        return None
    if machine.instructions() >= TILES and ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0:
        return "tiles"
    return "vectors" if machine.instructions() >= VECTORS else None


@functools.cache
def are_here() -> bool:
    """Whether packed kernels can be multiplied: by the processor, and by what is installed."""
    return multiplied_by() is not None and _calls_are_known() and _compiles()


def _calls_are_known() -> bool:
    """Whether XLA's foreign calls are of the version that `jaxpaint.tiles.handler` knows; their layout follows it."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    return (
        header.is_file() and re.search(r"^#define XLA_FFI_API_MAJOR 0$", header.read_text(), re.MULTILINE) is not None
    )


def _compiles() -> bool:
    try:
        from numba.core import config
    except ImportError:  # it is not there, or not for this NumPy
        return False
    return not config.DISABLE_JIT


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def product(
    x: Float[Array, "*batch inner"], kernels: Packed, index: Int[Array, ""], dtype: Any = jnp.float32
) -> Float[Array, "*batch columns"]:
    """`x @ kernels[index]` as `dtype`, added up in float32: of x in float32 as exact as its own, or in bfloat16.

    The result may be bfloat16 where x is. By tiles, what is not finite in float32 gives NaN.
    """
    shape = *x.shape[:-1], kernels.shape[1] * MULTIPLE
    if not x.size:
        return jnp.zeros(shape, dtype)
    _register()
    rows = x.reshape(-1, x.shape[-1])
    kind = jax.ShapeDtypeStruct((len(rows), shape[-1]), dtype)
    return jax.ffi.ffi_call(TARGET, kind, vmap_method="sequential")(rows, kernels, index).reshape(shape)


@product.defjvp
def _(dtype: Any, arguments: tuple[Array, Packed, Array], changes: tuple[Array, Any, Any]) -> tuple[Array, Array]:
    x, kernels, index = arguments
    kernel = unpacked(kernels[index]).astype(x.dtype)
    return product(x, kernels, index, dtype), jnp.matmul(changes[0], kernel, preferred_element_type=dtype)


def attention(
    query: Float[Array, "B T N H"], parts: Sequence[tuple[Array, Array, Array]], scale: float
) -> Float[Array, "B T N H"]:
    """Attention of all queries to parts of keys and values [rows, K, P, H], each seen by a mask [B, 1, T, P].

    One softmax is over all parts. Where a part has one row, all of the batch reads it. H is a multiple of 16. Of one
    row of queries to keys of their own the mask may be three rows [3, P] of integers in its place: key j is seen by
    query i when `j <= i < rows[0, j]` and `rows[1, i] - rows[1, j]` is less than `rows[2, 0]`.
    """
    batch, length = query.shape[:2]
    told = [jnp.float32(scale)]
    for key, value, seen in parts:
        key, value = (each.astype(query.dtype) for each in (key, value))
        told += [key, value, seen if seen.ndim == 2 else jnp.broadcast_to(seen, (batch, 1, length, key.shape[2]))]
    if not query.size:
        return query
    _register()
    return jax.ffi.ffi_call(ATTENTION, jax.ShapeDtypeStruct(query.shape, query.dtype), vmap_method="sequential")(
        query, *told
    )


def _register() -> None:
    with _lock:
        _registered()


@functools.cache
def _registered() -> None:
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    handler = _compiled()
    for target in (TARGET, ATTENTION):
        jax.ffi.register_ffi_target(target, capsule(handler.address, None, None), platform="cpu")


def _compiled() -> Any:
    """The handler of both. What numba compiles is kept, where JAX's is, for the sources that it was compiled from."""
    from numba.core import config

    before, config.CACHE_DIR = config.CACHE_DIR, _kept_in()
    try:
        from jaxpaint.tiles.handler import handler
    finally:
        config.CACHE_DIR = before
    return handler


def _kept_in() -> str:
    """A folder of the sources' own; empty where nothing is kept."""
    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    if (compiled := persistent_cache()) is None:
        return ""
    folder = Path(compiled) / f"{multiplied_by()}-{hashlib.sha256(sources).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""

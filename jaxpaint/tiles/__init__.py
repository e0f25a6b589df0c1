"""Matrix products on processors with AMX, whose tiles multiply bfloat16 at many times the rate of float32's vectors.

Compiled by numba where it is installed (`pip install 'jaxpaint[amx]'`), called by XLA on its threads. Float32 that is
whole in bfloat16, as kernels are that a checkpoint stores so, takes half of the products that other float32 takes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpaint.base import target
from jaxpaint.base.compilation import persistent_cache
from jaxpaint.base.machine import instructions

TARGET = "jaxpaint_tiles_product"
NEEDED = {"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl"}
MULTIPLE = 32  # of sizes that tiles take
# Rows from which it gains, with kernels of so many numbers, and with others: each is laid out anew for a product.
LEAST_ROWS, SMALL, LEAST_ROWS_OF_LARGE = 32, 4 << 20, 64
# x86-64's arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux gives tiles to a process that asks.
ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18

_lock = threading.Lock()


def multiplies(x: Array, kernel: Array) -> bool:
    """Whether `product(x, kernel)` can be and gains: float32, many rows, sizes that tiles take, such a processor."""
    least = LEAST_ROWS if kernel.size <= SMALL else LEAST_ROWS_OF_LARGE
    return (
        x.dtype == kernel.dtype == jnp.float32
        and x.size >= least * x.shape[-1]
        and not any(size % MULTIPLE for size in kernel.shape)
        and target.platform() == "cpu"
        and are_here()
    )


@functools.cache
def have_processor() -> bool:
    """Whether the processor has tiles; what uses them may be missing."""
    return instructions() >= NEEDED and platform.machine() == "x86_64"


@functools.cache
def are_here() -> bool:
    """Whether this process may use tiles, and has what compiles for them."""
    return (
        have_processor()
        and _calls_are_known()
        and _compiles()
        and ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0
    )


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


@jax.custom_jvp
def product(x: Float[Array, "*batch inner"], kernel: Float[Array, "inner columns"]) -> Float[Array, "*batch columns"]:
    """`x @ kernel`, of arrays that `multiplies`; in float32, as exact as its own. What is not finite gives NaN."""
    _register()
    rows = x.reshape(-1, x.shape[-1])
    kind = jax.ShapeDtypeStruct((len(rows), kernel.shape[1]), jnp.float32)
    found = jax.ffi.ffi_call(TARGET, kind, vmap_method="sequential")(rows, kernel)
    return found.reshape(*x.shape[:-1], -1)


@product.defjvp
def _(arguments: tuple[Array, Array], changes: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, kernel), (of_x, of_kernel) = arguments, changes
    return product(x, kernel), of_x @ kernel + x @ of_kernel


def _register() -> None:
    with _lock:
        _registered()


@functools.cache
def _registered() -> None:
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    jax.ffi.register_ffi_target(TARGET, capsule(_compiled().address, None, None), platform="cpu")


def _compiled() -> Any:
    """The handler. What numba compiles is kept, where JAX's is, for the sources that it was compiled from."""
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
    folder = Path(compiled) / f"tiles-{hashlib.sha256(sources).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""

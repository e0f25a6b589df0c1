"""Products by a processor's tiles: exact where integers show it, as near as float32's own elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint import tiles

pytestmark = pytest.mark.skipif(not tiles.are_here(), reason="no processor with AVX2, or no numba to compile for it")

ROWS = [1, 2, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 131]


def rounded(kernel: np.ndarray) -> np.ndarray:
    """To what bfloat16 has room for."""
    return np.asarray(kernel.astype(jnp.bfloat16).astype(np.float32))


def product(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    assert tiles.is_whole(jnp.array(kernel))
    return np.asarray(tiles.product(jnp.array(x), tiles.packed(jnp.array(kernel))[None], jnp.int32(0)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 1 << 5, 1 << 8]), st.integers(0, 99)
)
def test_integers_are_exact(rows: int, inner: int, columns: int, largest: int, seed: int) -> None:
    """No sum has more than float32's 24 digits; kernels' numbers have up to 8."""
    numbers = np.random.default_rng(seed)
    most = (1 << 24) // (32 * inner * largest)
    x = numbers.integers(-most, most + 1, (rows, 32 * inner)).astype(np.float32)
    kernel = numbers.integers(-largest, largest + 1, (32 * inner, 32 * columns)).astype(np.float32)
    np.testing.assert_array_equal(product(x, kernel), x.astype(int) @ kernel.astype(int))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.sampled_from([1, 3, 18, 60]), st.integers(1, 9), st.integers(0, 99))
def test_integers_in_bfloat16_are_exact(rows: int, inner: int, columns: int, seed: int) -> None:
    """And the result, where it is bfloat16 too, is the nearest."""
    numbers = np.random.default_rng(seed)
    x = jnp.array(numbers.integers(-256, 257, (rows, 32 * inner)), jnp.bfloat16)
    kernel = jnp.array(numbers.integers(-16, 17, (32 * inner, 32 * columns)), jnp.bfloat16)
    exact = np.asarray(x, int) @ np.asarray(kernel, int)
    for dtype in (jnp.float32, jnp.bfloat16):
        found = tiles.product(x, tiles.packed(kernel)[None], jnp.int32(0), dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, jnp.array(exact, jnp.float32).astype(dtype))


def test_what_is_not_finite_in_bfloat16() -> None:
    x, kernel = jnp.ones((40, 64), jnp.bfloat16), jnp.ones((64, 32), jnp.bfloat16)
    x = x.at[3, 5].set(jnp.nan).at[20, 63].set(jnp.inf).at[39, 0].set(-jnp.inf)
    for dtype in (jnp.float32, jnp.bfloat16):
        found = np.asarray(tiles.product(x, tiles.packed(kernel)[None], jnp.int32(0), dtype), np.float32)
        assert np.isnan(found[3]).all()
        assert (found[20] == np.inf).all()
        assert (found[39] == -np.inf).all()
        assert (np.delete(found, [3, 20, 39], axis=0) == 64).all()


@pytest.mark.parametrize("inner", [32, 576, 1568, 4640])  # beyond 1,536 sums of sums
def test_as_near_as_float32(inner: int) -> None:
    """Beside NumPy's product in float32, both against float64; a piece left out would be tens of times as far."""
    numbers = np.random.default_rng(inner)
    kernel = rounded(numbers.standard_normal((inner, 160), np.float32) / np.float32(np.sqrt(inner)))
    for rows in ROWS:
        x = np.ldexp(numbers.standard_normal((rows, inner), np.float32), numbers.integers(-40, 40, (rows, 1)))
        scale = np.abs(x).max(axis=1, keepdims=True)
        exact = x.astype(np.float64) @ kernel.astype(np.float64)

        def error(found: np.ndarray, exact: np.ndarray = exact, scale: np.ndarray = scale) -> float:
            return float(np.sqrt(np.mean(((np.asarray(found, np.float64) - exact) / scale) ** 2)))

        assert error(product(x, kernel)) <= 1.5 * error(x @ kernel) + 1e-9


def test_a_row_is_the_same_among_any_others() -> None:
    numbers = np.random.default_rng(0)
    x, kernel = numbers.standard_normal((131, 1568), np.float32), rounded(numbers.standard_normal((1568, 288)))
    whole = product(x, kernel)
    for rows in ROWS:
        np.testing.assert_array_equal(product(x[-rows:], kernel), whole[-rows:])


def test_kernels_of_layers_are_read_where_they_lie() -> None:
    """Which one may be traced; beyond them it is the last, as JAX takes it."""
    numbers = np.random.default_rng(0)
    x, kernels = numbers.integers(-9, 9, (20, 64)), numbers.integers(-9, 9, (3, 64, 96))
    packed = tiles.packed(jnp.array(kernels, jnp.float32))
    found = jax.lax.map(lambda index: tiles.product(jnp.array(x, jnp.float32), packed, index), jnp.arange(-1, 5))
    np.testing.assert_array_equal(found, (x @ kernels)[[0, 0, 1, 2, 2, 2]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_packed_is_all_there(dtype: jnp.dtype) -> None:
    kernel = jnp.array(rounded(np.random.default_rng(0).standard_normal((2, 3, 64, 96))), dtype)
    assert tiles.packs(kernel)
    packed = tiles.packed(kernel)
    assert tiles.is_packed(packed)
    assert packed.nbytes == 2 * kernel.size
    np.testing.assert_array_equal(tiles.unpacked(packed), kernel.astype(jnp.float32))


def test_no_rows() -> None:
    packed = tiles.packed(jnp.ones((1, 64, 96)))
    assert tiles.product(jnp.ones((2, 0, 64)), packed, jnp.int32(0)).shape == (2, 0, 96)


def test_what_cannot_be_packed() -> None:
    for other in (jnp.ones((32, 33)), jnp.ones((48, 32)), jnp.ones(32), jnp.ones((32, 32), jnp.int8)):
        assert not tiles.packs(other)
    kernel = np.ones((64, 64), np.float32)
    assert tiles.is_whole(jnp.array(kernel))
    kernel[-1, -1] += np.float32(2**-8)
    assert not tiles.is_whole(jnp.array(kernel))


def test_numbers_that_are_not_finite_spoil_their_row_alone() -> None:
    x, kernel = np.ones((70, 64), np.float32), np.ones((64, 32), np.float32)
    x[3, 5], x[40, 63], x[69, 0] = np.nan, np.inf, np.uint32(0xFFFFFFFF).view(np.float32)
    found = product(x, kernel)
    spoilt = [3, 40, 69]
    assert np.isnan(found[[3, 69]]).all()
    # Pieces of what is infinite are not numbers; vectors take it whole.
    assert np.isnan(found[40]).all() if tiles.multiplied_by() == "tiles" else (found[40] == np.inf).all()
    assert (np.delete(found, spoilt, axis=0) == 64).all()


def test_beside_other_operations() -> None:
    """Sides that lie otherwise, batch axes, a mapped function, and derivatives: as XLA's own product."""
    numbers = np.random.default_rng(1)
    x = jnp.array(numbers.standard_normal((2, 3, 40, 64), np.float32) / 32)
    kernels = jnp.array(rounded(numbers.standard_normal((3, 64, 96))))
    packed = tiles.packed(kernels)

    def by_tiles(x, index):
        return tiles.product(x, packed, index)

    def by_xla(x, index):
        return x @ kernels[index]

    def loss(product, x):
        turned = jnp.swapaxes(jnp.swapaxes(x, 0, 2) * 2, 0, 2)
        each = jax.vmap(product)(turned, jnp.array([2, 0]))
        return jnp.sum(jnp.sin(each)), each

    for jit in (lambda f: f, jax.jit):
        of_each = [
            jit(lambda x, product=product: jax.value_and_grad(loss, 1, has_aux=True)(product, x))
            for product in (by_tiles, by_xla)
        ]
        found, expected = (each(x) for each in of_each)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), found, expected)


def child(code: str, **environment: str) -> str:
    """What a process of its own prints, with a product at hand."""
    start = (
        "import jax, jax.numpy as jnp, numpy as np\nfrom jaxpaint import tiles\nassert tiles.are_here()\n"
        "numbers = np.random.default_rng(0)\n"
        "shapes = (200, 576), (576, 1536)\n"
        "x, kernel = (jnp.array(numbers.integers(-9, 10, shape).astype(np.float32)) for shape in shapes)\n"
        "exact = np.asarray(x, int) @ np.asarray(kernel, int)\n"
        "packed = tiles.packed(kernel)[None]\n"
        "def product(x, packed=packed): return tiles.product(x, packed, jnp.int32(0))\n"
    )
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_on_any_number_of_threads(threads: int) -> None:
    """Of XLA's pool; many programs at once, whose shares fill it."""
    code = """
from concurrent.futures import ThreadPoolExecutor
apart = jax.jit(lambda x: [product(x + i) for i in range(6)])
def once(_):
    for i, found in enumerate(apart(x)):
        assert (np.asarray(found) == exact + i * np.asarray(kernel, int).sum(0)).all(), i
list(ThreadPoolExecutor(4).map(once, range(20)))
print("done")
"""
    assert child(code, NPROC=str(threads), PJRT_NPROC=str(threads)) == "done\n"


def test_without_memory_left_it_is_an_error_that_says_so() -> None:
    """The shares of 600 threads need more than allocators keep at hand."""
    code = """
import resource
tall, wide = jnp.ones((1152, 4608)), tiles.packed(jnp.ones((1, 4608, 4096)))
large = jax.jit(product).lower(tall, wide).compile()
assert (product(x) == exact).all()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20),) * 2)
try:
    large(tall, wide).block_until_ready()
except Exception as error:
    print(error)
"""
    said = child(code, NPROC="600", PJRT_NPROC="600")
    assert "RESOURCE_EXHAUSTED: Out of memory for a matrix product." in said


def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    """A second process compiles nothing, where nothing may be kept it works, and users' own folder stays theirs."""
    code = "import numba\nassert (np.asarray(product(x)) == exact).all()\nprint(numba.config.CACHE_DIR)"
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": "theirs"}
    assert child(code, **environment) == "theirs\n"
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.nb?")}
    assert kept
    assert child(code, **environment) == "theirs\n"
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.nb?")} == kept
    (tmp_path / "file").touch()
    child(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "cache"))
    child(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "none"), JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "none").exists()


def test_threads_that_come_first_together() -> None:
    code = """
import threading
found = []
def one():
    found.append((np.asarray(product(x)) == exact).all())
threads = [threading.Thread(target=one) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(found)
"""
    assert child(code) == "[np.True_, np.True_, np.True_, np.True_]\n"

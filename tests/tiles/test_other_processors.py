"""What is compiled for processors that are not here: with half of the vectors, and with tiles, which are emulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpaint import tiles

pytestmark = pytest.mark.skipif(not tiles.are_here(), reason="no processor with AVX2, or no numba to compile for it")

CHECK = """
import sys
import jax.numpy as jnp, numpy as np
from jaxpaint import tiles
numbers = np.random.default_rng(0)
for rows in (1, 3, 16, 17, 33, 70):
    for inner, columns in ((64, 96), (1568, 160), (4640, 64)):
        for dtype, out in ((jnp.float32,) * 2, (jnp.bfloat16, jnp.float32), (jnp.bfloat16,) * 2):
            x = jnp.array(numbers.integers(-9, 9, (rows, inner)), dtype)
            kernels = numbers.integers(-9, 9, (2, inner, columns))
            found = tiles.product(x, tiles.packed(jnp.array(kernels, jnp.float32)), jnp.int32(1), out)
            exact = jnp.array(np.asarray(x, int) @ kernels[1], jnp.float32).astype(out)
            assert (np.asarray(found) == np.asarray(exact)).all(), (rows, inner, columns, dtype, out)
query = numbers.standard_normal((2, 100, 4, 32), np.float32)
key, value = (numbers.standard_normal((2, 2, 130, 32), np.float32) for _ in range(2))
mask = numbers.random((2, 1, 100, 130)) < 0.3
mask[..., 0] = True
scores = np.einsum("btnh,bnsh->bnts", query, np.repeat(key, 2, axis=1)) * 32**-0.5
weights = np.where(mask, np.exp(scores), 0.0)
exact = np.einsum("bnts,bnsh->btnh", weights / weights.sum(-1, keepdims=True), np.repeat(value, 2, axis=1))
for dtype, near in ((jnp.float32, 4e-6), (jnp.bfloat16, 2e-2)):
    parts = [(jnp.array(key, dtype), jnp.array(value, dtype), jnp.array(mask))]
    found = tiles.attention(jnp.array(query, dtype), parts, 32**-0.5)
    assert np.abs(np.asarray(found, np.float32) - exact).max() < near
compiled = sys.modules["jaxpaint.tiles.product_job"].multiply_share
print(compiled.py_func.__module__, "zmm" in "".join(compiled.inspect_asm().values()))
"""


def child(before: str, **environment: str) -> str:
    own = {"JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    run = subprocess.run(
        [sys.executable, "-c", before + CHECK], env={**os.environ, **own}, text=True, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.strip()


def test_vectors_of_eight_numbers() -> None:
    before = """
from jaxpaint.base import machine
machine.instructions = lambda: frozenset({"avx2", "fma"})
"""
    found = child(before, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="")
    assert found == "jaxpaint.tiles.vector_share False"


def test_tiles() -> None:
    before = "from tests.helpers.emulated_tiles import emulate\nemulate()\n"
    assert child(before, NPROC="1", PJRT_NPROC="1").startswith("jaxpaint.tiles.share ")

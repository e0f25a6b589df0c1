"""What is compiled is kept between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxpaint.base import compilation

# Half a second of compiling on one core: less than JAX keeps by itself, as each executable of a batch shape is.
CODE = """
import jax, jax.numpy as jnp
from jaxpaint.base.compilation import enable_persistent_cache

enable_persistent_cache()
def deep(x):
    for _ in range(600):
        x = jnp.sin(x @ x) + jnp.cos(x)
    return x
jax.jit(deep)(jnp.ones((8, 8))).block_until_ready()
"""


@pytest.mark.parametrize(("seconds", "kept"), [(None, True), ("1000", False)])
@pytest.mark.slow
def test_what_compiles_fast_is_kept_unless_the_user_says_otherwise(
    tmp_path: Path, seconds: str | None, kept: bool
) -> None:
    asked = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": seconds} if seconds else {}
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    environment = {**ours, "JAXPAINT_CACHE": str(tmp_path), **asked}
    subprocess.run([sys.executable, "-c", CODE], cwd=Path(__file__).parents[2], env=environment, check=True)
    assert any("jit_deep" in file.name for file in tmp_path.rglob("*")) == kept


def test_no_function_holds_more_executables_than_a_process_may(monkeypatch):
    monkeypatch.setattr(compilation, "MOST_LOADED", 3)

    @compilation.jit("number")
    def times(x, number):
        return x * number

    loaded = []
    for number in range(12):
        assert times(2.0, number) == 2.0 * number
        loaded.append(times.executables())
    assert max(loaded) == 3
    assert times(2.0, 11) == 22.0


def test_the_library_for_products_is_chosen_by_a_calls_arguments() -> None:
    def of_many(x: jax.Array, _: jax.Array) -> bool:
        return len(x) > 8

    @compilation.jit(default_products=of_many)
    def product(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.matmul(x, weights, preferred_element_type=jnp.float32)

    x, weights = jnp.ones((8, 64)), jnp.ones((64, 128))
    assert "ynn_fusion" not in product.lower(x, weights).compile().as_text()
    many = jnp.ones((16, 64))
    assert "ynn_fusion" in product.lower(many, weights).compile().as_text()
    assert product(many, weights)[0, 0] == 64
    assert product.executables() == 1
    product(x, weights)
    assert product.executables() == 2
    product.clear_cache()


@pytest.mark.parametrize("has_them", [False, True])
def test_products_of_bfloat16_are_of_the_library_that_knows_a_processors_instructions_for_it(
    has_them: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "multiplies_bfloat16", lambda: has_them)

    @compilation.jit()
    def product(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.matmul(x, parameters["kernel"], preferred_element_type=jnp.float32)

    x, parameters = jnp.ones((8, 64), jnp.bfloat16), {"kernel": jnp.ones((64, 128), jnp.bfloat16)}
    assert ("ynn_fusion" in product.lower(parameters, x).compile().as_text()) == has_them
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters)
    assert "ynn_fusion" not in product.lower(wide, x.astype(jnp.float32)).compile().as_text()
    assert product.executables() == 0

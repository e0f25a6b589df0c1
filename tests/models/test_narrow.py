"""bfloat16 on a CPU: what is moved keeps its bits, and products are of bfloat16, however the compiler lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpaint.base import compilation
from jaxpaint.base.compilation import compiler_options
from jaxpaint.base.machine import multiplies_bfloat16
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.generation import Prompt, generate
from jaxpaint.models import narrow, rotary
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import make_tiny


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor that multiplies bfloat16; others compute the same, later."""
    if multiplies_bfloat16():
        yield
        return
    for module in (narrow, compilation):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda: True)
    jax.clear_caches()
    yield
    jax.clear_caches()


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Its program, and what it gives."""
    program = jax.jit(function, compiler_options=compiler_options(default_products=True)).lower(*arguments).compile()
    return program.as_text(), program(*arguments)


# What follows a product, or precedes one of its sides, has the compiler lay it out in another order.
AROUND = {
    "alone": lambda x, w: narrow.product(x, w),
    "turned after": lambda x, w: jnp.swapaxes(narrow.product(x, w), -1, -2) + 1,
    "left turned before": lambda x, w: narrow.product(jnp.swapaxes(jnp.swapaxes(x, -1, -2) * 1, -1, -2), w),
    "right turned before": lambda x, w: narrow.product(x, jnp.swapaxes(jnp.swapaxes(w, -1, -2), -1, -2)),
    "both sides one's": lambda x, w: narrow.product(narrow.product(x, w).astype(x.dtype), jnp.swapaxes(w, -1, -2)),
}


SIZES = [(8, 64, 128), (1, 64, 128), (64, 32, 1), (1, 96, 1), (3, 5, 64, 16), (2, 3, 1, 24, 9)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.usefixtures("instructions")
def test_a_product_is_of_bfloat16_and_adds_up_in_float32(sizes: tuple[int, ...], around: str) -> None:
    *batch, rows, inner, columns = sizes
    random = np.random.default_rng(0)
    x, w = (jnp.array(random.normal(size=(*batch, *size)), jnp.bfloat16) for size in ((rows, inner), (inner, columns)))
    _, found = compiled(AROUND[around], x, w)
    wide = jax.jit(AROUND[around])(x.astype(jnp.float32), w.astype(jnp.float32))
    assert found.dtype == jnp.float32
    # The product between two is rounded to bfloat16.
    tolerance = 2e-2 * inner**0.5 if around == "both sides one's" else 1e-5
    np.testing.assert_allclose(found, wide, rtol=2e-2 if tolerance > 1e-5 else 1e-5, atol=tolerance * inner**0.5)


@pytest.mark.usefixtures("instructions")
def test_no_side_of_a_product_is_turned_into_float32() -> None:
    x, w = jnp.ones((8, 64), jnp.bfloat16), jnp.ones((64, 128), jnp.bfloat16)
    assert "convert" not in compiled(narrow.product, x, w)[0]
    assert "convert" in compiled(partial(jnp.matmul, preferred_element_type=jnp.float32), x[:1], w)[0]


EVERY = np.arange(1 << 16, dtype=np.uint16).reshape(64, 16, 64)
MOVES: dict[str, Callable[[Any], Any]] = {
    "taken": lambda table: narrow.taken(table, jnp.int32(3)),
    "rows": lambda table: narrow.rows_of(table, jnp.array([[5, 0], [63, 5]])),
    "written": lambda table: narrow.moved(
        partial(jax.lax.dynamic_update_slice_in_dim, axis=0), table, narrow.moved(lambda x: x[:2], table), jnp.int32(7)
    ),
    "taken in turn": lambda table: jax.vmap(partial(narrow.taken, table))(jnp.array([2, 9])),
}


@pytest.mark.parametrize("move", MOVES)
def test_what_is_moved_keeps_its_bits_and_is_never_in_float32(move: str) -> None:
    table = jax.lax.bitcast_convert_type(jnp.array(EVERY), jnp.bfloat16)
    program, found = compiled(MOVES[move], table)
    expected = MOVES[move](jnp.array(EVERY))
    np.testing.assert_array_equal(jax.lax.bitcast_convert_type(found, jnp.uint16), expected)
    assert "f32[" not in program


@pytest.mark.parametrize("move", MOVES)
def test_what_is_moved_has_the_gradient_of_what_it_was(move: str) -> None:
    table = jnp.array(np.random.default_rng(0).normal(size=(64, 3, 4)), jnp.bfloat16)

    def sum_of_squares(table: Any) -> Any:
        return (MOVES[move](table).astype(jnp.float32) ** 2).sum()

    expected = jax.grad(sum_of_squares)(table.astype(jnp.float32))
    assert expected.any()
    np.testing.assert_allclose(jax.grad(sum_of_squares)(table).astype(jnp.float32), expected, rtol=1e-2)


BITS = np.arange(1 << 16, dtype=np.uint32) << 16
# Every bfloat16, and beside it what is nearest to it from either side, halfway to the next, or beside that.
NEAR = np.concatenate([BITS, BITS + 1, BITS + 0x7FFF, BITS + 0x8000, BITS + 0x8001, BITS + 0xFFFF]).view(np.float32)


@pytest.mark.parametrize("before", [lambda x: x, jnp.exp, lambda x: -x], ids=["alone", "exponential", "negative"])
def test_a_number_is_rounded_to_the_nearest_one_and_a_tie_to_the_even_one(before: Callable[[Any], Any]) -> None:
    wide = np.asarray(jax.jit(before)(NEAR))
    found = np.asarray(jax.jit(lambda x: narrow.rounded(before(x), jnp.bfloat16))(NEAR))
    normal = (np.abs(wide) > np.finfo(np.float32).tiny) | np.isnan(wide)  # XLA takes smaller ones for 0, or not
    with np.errstate(invalid="ignore"):
        expected = wide.astype(jnp.bfloat16)
    np.testing.assert_array_equal(found.astype(np.float32)[normal], expected.astype(np.float32)[normal])


def test_what_is_rounded_has_the_gradient_of_what_it_was() -> None:
    x = jnp.linspace(-2, 2, 7)
    found = jax.grad(lambda x: (narrow.rounded(jnp.exp(x), jnp.bfloat16).astype(jnp.float32) ** 2).sum())(x)
    np.testing.assert_allclose(found, 2 * np.exp(2 * x), rtol=2e-2)


@pytest.mark.parametrize("turning", [16, 12])
def test_heads_in_bfloat16_turn_as_in_float32(turning: int) -> None:
    x = jnp.array(np.random.default_rng(0).normal(size=(1, 9, 2, 16)), jnp.bfloat16)
    cos, sin = rotary.rope_tables(jnp.arange(9)[None] * 50, rotary.rope_frequencies(turning, 10000.0))
    found, wide = rotary.turned(x, cos, sin), rotary.turned(x.astype(jnp.float32), cos, sin)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)


def in_both(variation: str) -> tuple[Model, Model]:
    """A tiny model in bfloat16, and one of the same numbers in float32."""
    model = make_tiny(variation).model
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.to_pure_dict(model.state))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
    return from_parameters(model.config, rounded), from_parameters(model.config, wide)


SOME = ["grouped-query"]
SOME += [pytest.param(each, marks=pytest.mark.slow) for each in ("gemma2", "gpt2", "neox", "phi3", "tied embeddings")]


@pytest.mark.parametrize("variation", SOME)
@pytest.mark.usefixtures("instructions")
def test_a_model_in_bfloat16_scores_and_writes_as_it_does_in_float32(variation: str) -> None:
    """But for the rounding of what is between its layers."""
    low, wide = in_both(variation)
    plans = [Plan.parse(text) for text in ("0-4", "0 {1-3} 4", "0 1a {2m 3a} 4")]
    draw = np.random.default_rng(0)
    texts = [tuple(map(int, draw.integers(0, 40, length))) for length in draw.integers(3, 15, 60)]
    requests = [Request.of(text[:-2], text[-2:], 64) for text in texts]
    for plan in plans:
        found, expected = (score(model, requests, plan).loglikelihoods for model in (low, wide))
        # Before products were of bfloat16, with all in between rounded to it, up to 0.053.
        assert np.sqrt(np.mean((np.array(found) - expected) ** 2)) < 0.05
    for each in generate(low, [Prompt(text, 4) for text in texts[:4]], plans):
        whole = (*texts[each.prompt], *each.tokens)
        padded = np.array([(*whole, *[0] * (20 - len(whole)))])
        logits = wide.logits(padded, plans[each.plan])[0, len(texts[each.prompt]) - 1 : len(whole) - 1]
        chosen = np.take_along_axis(np.asarray(logits), np.array(each.tokens)[:, None], axis=1)[:, 0]
        assert (logits.max(axis=1) - chosen < 0.2).all()

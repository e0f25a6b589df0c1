"""Models whose linear layers multiply by a processor's tiles: which ones do, and that what they say stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpaint import tiles
from jaxpaint.engine import whole
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.program import enough_room
from jaxpaint.generation import Prompt, generate
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import PLANS, SIZES, tiny_like

pytestmark = pytest.mark.skipif(not tiles.are_here(), reason="no AMX, or no numba to compile for it")

TOKENS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (4, 24))  # more rows than tiles need
WIDE = {"num_key_value_heads": 4, "intermediate_size": 64, "mlp_bias": True}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_like("llama", **{**SIZES, **WIDE}).model


def rounded(model: Model, to: Any) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf.astype(to).astype(jnp.float32), nnx.to_pure_dict(model.state))


def calls(model: Model, tokens: np.ndarray = TOKENS) -> int:
    """Of the tiles' product in what is compiled for the tokens."""
    arguments = *as_data(PLANS[0], None), enough_room([PLANS[0]]), model.inputs(tokens)
    return whole.logits.lower(model.graphdef, model.state, *arguments).as_text().count(f"@{tiles.TARGET}(")


def test_kernels_that_are_whole_in_bfloat16_are_multiplied_by_tiles(model: Model) -> None:
    whole_ones = from_parameters(model.config, rounded(model, jnp.bfloat16))
    assert calls(whole_ones) == 7
    assert calls(whole_ones, TOKENS[:1]) == 0  # too few rows
    for others in (model, from_parameters(model.config, rounded(model, jnp.float16))):
        assert calls(others) == 0
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.to_pure_dict(model.state))
    assert calls(from_parameters(model.config, narrow)) == 0


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_logits_and_texts_are_those_without_tiles(model: Model, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    by_tiles = from_parameters(model.config, rounded(model, jnp.bfloat16))
    with monkeypatch.context() as without:
        without.setattr(tiles, "are_here", lambda: False)
        plain = from_parameters(model.config, rounded(model, jnp.bfloat16))
    assert by_tiles.graphdef != plain.graphdef
    np.testing.assert_allclose(by_tiles.logits(TOKENS, plan), plain.logits(TOKENS, plan), atol=2e-5, rtol=2e-5)


def test_a_prompt_is_read_by_tiles_and_continued_as_without(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt(tuple(map(int, row)), max_new_tokens=8) for row in np.tile(TOKENS, 2)]
    texts = []
    for here in (True, False):
        monkeypatch.setattr(tiles, "are_here", lambda here=here: here)
        each = from_parameters(model.config, rounded(model, jnp.bfloat16))
        assert bool(calls(each)) == here
        texts.append(list(generate(each, prompts, [PLANS[0]])))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("lacks", ["numba", "a compiler", "calls that are known"])
def test_where_something_lacks_nothing_changes(
    model: Model, lacks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if lacks == "numba":
        monkeypatch.setitem(sys.modules, "numba.core", None)
    elif lacks == "a compiler":
        monkeypatch.setattr("numba.core.config.DISABLE_JIT", 1)
    else:
        (tmp_path / "xla/ffi/api").mkdir(parents=True)
        (tmp_path / "xla/ffi/api/c_api.h").write_text("#define XLA_FFI_API_MAJOR 1\n")
        monkeypatch.setattr("jax.ffi.include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(tiles, "are_here", tiles.are_here.__wrapped__)
    assert not tiles.are_here()
    assert calls(from_parameters(model.config, rounded(model, jnp.bfloat16))) == 0

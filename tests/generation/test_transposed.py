"""Decoding that reads kernels as [out, in] writes what decoding that reads them as they are writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxpaint.base.budgets import on_cpu
from jaxpaint.engine import model as models
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.generation import Prompt, generate, serve
from jaxpaint.generation import decode as engine
from jaxpaint.generation.serve import Continuation
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import make_tiny

PLANS = [Plan.parse(text) for text in ("0-4", "0 {1-3}*2 4", "0 1a {2m 3a (1 2m)} 4")]
PROMPTS = [Prompt((1, 2, 3), 4), Prompt((7, 5), 5), Prompt((9, 4, 4, 2, 8), 3)]
SOME = ["attention bias"]
SOME += [
    pytest.param(each, marks=pytest.mark.slow)
    for each in ("grouped-query", "neox", "gpt2", "mixtral", "gemma3", "qwen2_moe", "falcon")
]

pytestmark = pytest.mark.skipif(not on_cpu(), reason="kernels are transposed for a CPU")


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any processor, of any layer."""
    monkeypatch.setattr(models, "instructions", lambda: {"avx512f"})
    monkeypatch.setattr(serve, "SMALL_LAYER_BYTES", 0)


def written(model: Model, plans: Sequence[Plan], **how: Any) -> list[Continuation]:
    return sorted(generate(model, PROMPTS, plans, **how), key=lambda each: (each.plan, each.prompt))


@pytest.mark.parametrize("variation", SOME)
@pytest.mark.parametrize("several", [False, True], ids=["compiled in", "as data"])
def test_kernels_that_are_transposed_change_no_text(variation: str, several: bool) -> None:
    model = make_tiny(variation).model
    plans = PLANS if several else PLANS[1:2]
    assert model.transposed is not None
    transposed = written(model, plans)
    as_they_are = from_parameters(model.config, nnx.to_pure_dict(model.state))
    vars(as_they_are)["transposed"] = None
    executables = engine.decode.executables()
    assert written(as_they_are, plans) == transposed
    assert engine.decode.executables() > executables


def test_every_layers_kernels_are_transposed_and_nothing_else() -> None:
    model = make_tiny("attention bias").model
    assert model.transposed is not None
    graphdef, layers = model.transposed
    assert graphdef != model.graphdef
    whole = jax.tree.map(lambda leaf: leaf, model.layers)
    for (path, own), (_, turned) in zip(*map(jax.tree_util.tree_leaves_with_path, (whole, layers)), strict=True):
        expected = np.swapaxes(own, -1, -2) if "kernel" in jax.tree_util.keystr(path) else own
        np.testing.assert_array_equal(turned, expected)


def test_they_are_left_as_they_are_where_a_copy_does_not_fit_or_is_not_read_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fresh() -> Model:
        model = make_tiny("grouped-query").model
        return from_parameters(model.config, nnx.to_pure_dict(model.state))

    monkeypatch.setattr(models, "memory_left", lambda: 1000)
    assert fresh().transposed is None
    monkeypatch.setattr(models, "memory_left", lambda: None)
    assert fresh().transposed is None
    monkeypatch.undo()
    monkeypatch.setattr(models, "instructions", lambda: {"avx2"})
    assert fresh().transposed is None


def test_a_single_row_is_read_as_it_lies() -> None:
    model = make_tiny("grouped-query").model
    fresh = from_parameters(model.config, nnx.to_pure_dict(model.state))
    list(generate(fresh, PROMPTS[:1], PLANS[:1]))
    assert "transposed" not in vars(fresh)
    list(generate(fresh, PROMPTS, PLANS[:1]))
    assert vars(fresh)["transposed"] is not None

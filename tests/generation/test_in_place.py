"""Small layers are copied out of their stack while plans are data, large ones read where they lie."""

from __future__ import annotations

import pytest

from jaxpaint.engine.layers import SMALL_LAYER_BYTES, layer_bytes
from jaxpaint.generation import Prompt, generate, serve
from jaxpaint.generation import decode as engine
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import make_tiny

PLANS = [Plan.parse(text) for text in ("0-4", "0 {1-3}*2 4", "0 1a {2m 3a (1 2m)} 4")]
PROMPTS = [Prompt((1, 2, 3), 4), Prompt((7, 5), 5), Prompt((9, 4, 4, 2, 8), 3)]


@pytest.mark.parametrize(
    "plans", [PLANS[:1] * 2, pytest.param(PLANS, marks=pytest.mark.slow)], ids=["series", "groups"]
)
def test_where_layers_are_read_changes_no_text(plans, monkeypatch):
    model = make_tiny("grouped-query").model
    assert layer_bytes(model.state["blocks"]) < SMALL_LAYER_BYTES
    out_of_the_stack = list(generate(model, PROMPTS, plans))
    executables = engine.decode.executables()
    monkeypatch.setattr(serve, "SMALL_LAYER_BYTES", 0)
    assert list(generate(model, PROMPTS, plans)) == out_of_the_stack
    assert engine.decode.executables() > executables

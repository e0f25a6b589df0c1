"""Sublayers in plans: parity with transformers' halves of layers, random nests of them, the caches' slots, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from jaxpaint.base.errors import UserError
from jaxpaint.engine.packing import Request
from jaxpaint.engine.program import Program
from jaxpaint.engine.score import score_plans
from jaxpaint.engine.walk import segment
from jaxpaint.generation import Prompt, generate
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import build
from tests.engine.test_compiled import plans
from tests.generation.test_generation import by_full_passes
from tests.helpers.bert_models import tiny_bert, torch_bert
from tests.helpers.decoders import NUM_LAYERS, Tiny, make_tiny
from tests.helpers.torch_runs import torch_run

FAMILIES = ("grouped-query", "neox", "neox, residuals in series", "sliding window", "qwen2, windows in turn")
RELEASED = "0 lp{1 2} lp{3 4}"
PLANS = (
    "0-4a",
    "0-1 2a 3m 4",
    "0 {1a 2m (3 1a)}*2 4m",
    "sum{0a 1a} sum{0m 1m} 2@0.5 3a@1.5*2 4",
    RELEASED,
    "0m~2 1 {2m~3 4}",
)
TOKENS = np.random.default_rng(5).integers(0, 61, (2, 11))


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return make_tiny(request.param)


def _close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.few(2)
def test_parity_with_a_loop_over_halves_of_transformers_layers(tiny: Tiny, text: str) -> None:
    plan = Plan.parse(text)
    expected = torch_run(tiny, TOKENS, plan)["logits"]
    _close(tiny.model.logits(TOKENS, plan), expected)


@pytest.mark.few(1)
def test_a_compiled_plan_is_the_same(tiny: Tiny) -> None:
    plan = Plan.parse(PLANS[2])
    _close(tiny.model.logits(TOKENS, plan, static=True), tiny.model.logits(TOKENS, plan))


@settings(max_examples=15)
@given(plans)
def test_random_nests_are_a_loop_over_halves(plan: Plan) -> None:
    one = make_tiny("grouped-query")
    _close(one.model.logits(TOKENS, plan), torch_run(one, TOKENS, plan)["logits"], 3e-5)


@pytest.mark.parametrize("text", ["0-4a", "0 1a {2m 3}*2 4m 1a"])
@pytest.mark.few(1)
def test_bert_runs_halves_of_transformers_layers(text: str) -> None:
    """A BERT layer's halves each end with their norm, so they cannot be had by setting weights to zero."""
    plan, theirs = Plan.parse(text), torch_bert()
    tokens = np.random.default_rng(6).integers(0, 61, (2, 9))
    with torch.no_grad():
        x = theirs.bert.embeddings(torch.tensor(tokens))

        def half(node: Any, x: torch.Tensor) -> torch.Tensor:
            module = theirs.bert.encoder.layer[node.index]
            if node.part != "mlp":
                x = module.attention(x)[0]
            return x if node.part == "attention" else module.feed_forward_chunk(x)

        def run(node: Any, x: torch.Tensor) -> torch.Tensor:
            match type(node).__name__:
                case "Layer":
                    return half(node, x)
                case "Series":
                    for item in node.items:
                        x = run(item, x)
                    return x
                case "Repeat":
                    for _ in range(node.times):
                        x = run(node.body, x)
                    return x
                case _:
                    return torch.stack([run(branch, x) for branch in node.branches]).mean(0)

        expected = theirs.cls.predictions(run(plan.root, x)).numpy()
    for static in (False, True):
        _close(tiny_bert().logits(tokens, plan, static=static), expected)


@pytest.mark.parametrize("static", [False, True], ids=["as data", "compiled"])
@pytest.mark.parametrize("text", ["0 1a 2m 3 4", "0m 1 {2a 3m (1 4a)}*2", "0-4m 0a"])
@pytest.mark.few(1)
def test_a_cache_has_a_slot_where_attention_runs(text: str, static: bool) -> None:
    """What is written with a cache is what full passes write, also where the last sublayer has no keys and values."""
    one, plan = make_tiny("multi-query"), Plan.parse(text)
    draw = np.random.default_rng(7)
    prompts = [Prompt(tuple(draw.integers(0, 61, int(draw.integers(3, 20))).tolist()), 5) for _ in range(4)]
    for found in generate(one.model, prompts, [plan], static=static, batch_size=2):
        assert found.tokens == by_full_passes(one, prompts[found.prompt], plan)


def test_layer_parallelism_is_its_released_code() -> None:
    """Both attentions read x, and both feed-forwards read their sum through one norm whose gain is the mean of two."""
    one, size = make_tiny("grouped-query"), TOKENS.shape[1]
    base = one.torch.base_model
    with torch.no_grad():
        x = one.torch.get_input_embeddings()(torch.tensor(TOKENS))
        turn = base.rotary_emb(x, torch.arange(size)[None])
        mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]

        def attend(layer: Any, x: torch.Tensor) -> torch.Tensor:
            inputs = {"position_embeddings": turn, "attention_mask": mask}
            return layer.self_attn(hidden_states=layer.input_layernorm(x), **inputs)[0]

        first, *rest = one.torch_layers
        x = x + attend(first, x)
        x = x + first.mlp(first.post_attention_layernorm(x))
        for one_layer, other in zip(rest[::2], rest[1::2], strict=True):
            x = x + attend(one_layer, x) + attend(other, x)
            norms = one_layer.post_attention_layernorm, other.post_attention_layernorm
            gain = (norms[0].weight + norms[1].weight) / 2
            normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norms[0].variance_epsilon) * gain
            x = x + one_layer.mlp(normed) + other.mlp(normed)
        expected = one.torch.get_output_embeddings()(base.norm(x)).numpy()
    for static in (False, True):
        _close(one.model.logits(TOKENS, Plan.parse(RELEASED), static=static), expected)
    assert build("layer-parallelism", NUM_LAYERS, start=0).plan == Plan.parse(RELEASED)
    own_norms = np.asarray(one.model.logits(TOKENS, Plan.parse("0 sum{1a 2a} sum{1m 2m} sum{3a 4a} sum{3m 4m}")))
    assert np.abs(own_norms - expected).max() > 1e-2, "the shared norm matters"


def test_families_without_such_a_norm_refuse_in_words() -> None:
    with pytest.raises(UserError, match="an encoder's feed-forward reads through no norm of its own"):
        tiny_bert().logits(TOKENS, Plan.parse("0 lp{1 2} 3 4"))


@pytest.mark.slow
def test_plans_that_begin_alike_share_and_score_as_alone() -> None:
    one = make_tiny("grouped-query")
    texts = ("0-4", "0-2 3a 4", "0-2 3m 4", "0-2 3a 4m", "0 1a 2-4", "0-2 lp{3 4}")
    draw = np.random.default_rng(8)
    requests = [Request.of(draw.integers(0, 61, 8).tolist(), draw.integers(0, 61, 4).tolist(), 24) for _ in range(5)]
    together = score_plans(one.model, requests, [Plan.parse(text) for text in texts])
    assert together.executed < together.separate
    for text, row in zip(texts, together.loglikelihoods, strict=True):
        alone = score_plans(one.model, requests, [Plan.parse(text)]).loglikelihoods[0]
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-4)
    whole = together.loglikelihoods[0]
    assert all(np.abs(row - whole).max() > 1e-3 for row in together.loglikelihoods[1:]), "every half matters"


def test_plans_of_whole_layers_keep_their_executable() -> None:
    """It has no branches for parts; all plans with sublayers share one more."""
    assert Program.of(Plan.parse("0-4")).instructions.shape[1] == 4
    assert Program.of(Plan.parse("0-3 4a")).instructions.shape[1] == 5
    assert Program.of(Plan.parse("0-2 lp{3 4}")).instructions.shape[1] == 6
    one = make_tiny("grouped-query")
    requests = [Request.of((1, 2), (3, 4), 24)]
    segment.clear_cache()
    score_plans(one.model, requests, [Plan.parse(text) for text in ("0-4", "4-0", "0 2*2 4")])
    assert segment.executables() == 1
    score_plans(one.model, requests, [Plan.parse(text) for text in ("0a", "4m 3", "0-2m 2a 4")])
    assert segment.executables() == 2


def test_what_takes_whole_layers_refuses_in_words() -> None:
    one, plan = make_tiny("grouped-query"), Plan.parse("0-3 4a")
    with pytest.raises(UserError, match="runs sublayers, and a run that is looked into takes whole layers only"):
        one.model.run(TOKENS, plan)

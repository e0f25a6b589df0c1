"""Scores: equal to what transformers gives request by request, under any plan, however they are packed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxpaint.base import budgets
from jaxpaint.engine import head, walk
from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Request, pack
from jaxpaint.engine.score import Scores, attention_cost, score
from jaxpaint.plans.plan import Layer, Parallel, Plan, PlanError, Repeat
from tests.helpers.decoders import NUM_LAYERS, VOCAB_SIZE, Tiny, make_tiny

MAX_LENGTH = 64
TOLERANCE = 1e-4


def _greedy(tiny: Tiny, context: list[int], length: int) -> list[int]:
    """The continuation that transformers decodes greedily."""
    tokens = list(context)
    for _ in range(length):
        tokens.append(int(tiny.torch_logits(np.array([tokens]))[0, -1].argmax()))
    return tokens[len(context) :]


def _requests(tiny: Tiny) -> list[Request]:
    """Shared and nested contexts, duplicates, single tokens, full length, greedy and nearly greedy ones."""
    text = np.random.default_rng(4).integers(0, VOCAB_SIZE, 80).tolist()
    decoded = _greedy(tiny, text[:9], 3)
    pairs = [
        *((text[:30], [answer, *text[30:32]]) for answer in range(6)),  # six answers to one question
        (text[:30], [3]),
        (text[:12], text[12:29]),  # a prefix of the question, scored within it
        (text[:12], text[12:29]),
        (text[:1], text[1:2]),
        (text[:1], text[1:3]),
        ([5], [5]),
        (text[:9], decoded),
        (text[:9], [*decoded[:2], (decoded[2] + 1) % VOCAB_SIZE]),
        (text[:9], [(decoded[0] + 1) % VOCAB_SIZE, *decoded[1:]]),
        (text[:70], text[70:75]),  # cut from the left
        (text[50:], text[:5]),
        (text[20:40], []),
    ]
    return [Request.of(context, continuation, MAX_LENGTH) for context, continuation in pairs]


def _scored(request: Request, logits: np.ndarray) -> tuple[float, bool]:
    """The definition: summed log-probabilities of the targets, and whether each is the most likely."""
    count = len(request.targets)
    logits = logits[len(request.tokens) - count : len(request.tokens)].astype(np.float64)
    chosen = logits[range(count), list(request.targets)]
    return float((chosen - np.log(np.exp(logits).sum(-1))).sum()), bool((chosen == logits.max(-1)).all())


def _by_transformers(tiny: Tiny, requests: list[Request]) -> list[tuple[float, bool]]:
    return [_scored(request, tiny.torch_logits(np.array([request.tokens]))[0]) for request in requests]


def _one_by_one(model: Model, requests: list[Request], plan: Plan) -> list[tuple[float, bool]]:
    """Each request in a row of its own, through `Model.logits`."""
    tokens = np.zeros((len(requests), MAX_LENGTH), int)
    for row, request in enumerate(requests):
        tokens[row, : len(request.tokens)] = request.tokens
    logits = np.asarray(model.logits(tokens, plan, [len(request.tokens) for request in requests]))
    return [_scored(request, logits[row]) for row, request in enumerate(requests)]


def _assert_scores(scores: Scores, expected: list[tuple[float, bool]]) -> None:
    np.testing.assert_allclose(scores.loglikelihoods, [value for value, _ in expected], rtol=0, atol=TOLERANCE)
    assert scores.is_greedy.tolist() == [greedy for _, greedy in expected]


def test_equal_transformers_request_by_request(tiny: Tiny) -> None:
    requests = _requests(tiny)
    expected = _by_transformers(tiny, requests)
    greedy = [bool(flag) for _, flag in expected]
    assert greedy[12:15] == [True, False, False]
    scores = score(tiny.model, requests, batch_tokens=128)
    _assert_scores(scores, expected)
    assert scores.request_tokens == sum(len(request.tokens) for request in requests)


@pytest.mark.parametrize(
    "text", ["0 {1-3} 4", "0 {1-3}*3 4", "{(0 1) {2 3}} sum{4 1}", "0 (1-2)*2 4", "4-0", "2", "0 {1@0.5 2-3}@0.5*2 4"]
)
@pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "neox"])
@pytest.mark.few(1)
def test_equal_each_alone_under_any_plan(variation: str, text: str) -> None:
    tiny, plan = make_tiny(variation), Plan.parse(text)
    requests = _requests(tiny)
    _assert_scores(score(tiny.model, requests, plan, batch_tokens=128), _one_by_one(tiny.model, requests, plan))


@pytest.mark.parametrize("batch_tokens", [1, 64, 320, 4096, None])
@pytest.mark.few(3)
def test_batch_size_changes_nothing(batch_tokens: int | None) -> None:
    tiny = make_tiny("grouped-query")
    requests = _requests(tiny)
    reversed_requests = list(reversed(requests))
    expected = _by_transformers(tiny, requests)
    _assert_scores(score(tiny.model, requests, batch_tokens=batch_tokens), expected)
    _assert_scores(score(tiny.model, reversed_requests, batch_tokens=batch_tokens), expected[::-1])


def test_many_answers_to_one_token() -> None:
    """Every token of the vocabulary after one context: the probabilities sum to one."""
    requests = [Request.of([7], [token], MAX_LENGTH) for token in range(VOCAB_SIZE)]
    scores = score(make_tiny("grouped-query").model, requests, batch_tokens=64)
    assert np.exp(scores.loglikelihoods).sum() == pytest.approx(1, abs=1e-5)
    assert scores.is_greedy.sum() == 1
    assert scores.is_greedy.argmax() == scores.loglikelihoods.argmax()


def test_the_head_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a few positions at a time, the last chunk partly beyond the scored positions."""
    tiny = make_tiny("tied embeddings")
    requests = _requests(tiny)
    monkeypatch.setattr(budgets, "CPU", dataclasses.replace(budgets.CPU, logits_bytes=4 * VOCAB_SIZE * 5))
    head._at_scored.clear_cache()
    _assert_scores(score(tiny.model, requests, batch_tokens=128), _by_transformers(tiny, requests))


def test_the_head_computes_no_chunk_in_vain() -> None:
    """A single position runs as a part of a chunk: XLA must not compute the whole chunk before the loop over chunks."""
    model = make_tiny("tied embeddings").model
    scored, targets = jnp.zeros(64, jnp.int32), jnp.zeros((64, 4), jnp.int32)
    hidden = jnp.zeros((2, 32, model.config.hidden_size))
    lowered = head._at_scored.lower(model.graphdef, model.state, 64, None, hidden, scored, targets, 1)
    in_any_case = lowered.compile().as_text().split("\nENTRY ")[1]
    assert in_any_case.count(" while(") == 2  # over chunks, and over parts
    assert " dot(" not in in_any_case


@pytest.mark.parametrize("largest", [1, 20, 30, 60])
@pytest.mark.parametrize("variation", ["grouped-query", "tied embeddings"])
@pytest.mark.few(1)
def test_the_vocabulary_in_blocks(monkeypatch: pytest.MonkeyPatch, variation: str, largest: int) -> None:
    """Blocks that divide the vocabulary of 61, and blocks of which the last overlaps."""
    tiny = make_tiny(variation)
    requests = _requests(tiny)
    monkeypatch.setattr(budgets, "CPU", dataclasses.replace(budgets.CPU, vocabulary_block=largest))
    head._at_scored.clear_cache()
    _assert_scores(score(tiny.model, requests), _by_transformers(tiny, requests))
    head._at_scored.clear_cache()


def test_nothing_to_score() -> None:
    model = make_tiny("grouped-query").model
    scores = score(model, [])
    assert (scores.loglikelihoods.shape, scores.is_greedy.shape) == ((0,), (0,))
    assert (scores.request_tokens, scores.computed_tokens) == (0, 0)
    empty = score(model, [Request.of([1, 2], [], MAX_LENGTH)])
    assert (empty.loglikelihoods.tolist(), empty.is_greedy.tolist()) == ([0.0], [True])


def test_progress_ends_at_the_tokens_asked_for() -> None:
    tiny, steps = make_tiny("grouped-query"), list[int]()
    requests = [request for request in _requests(tiny) if request.targets]
    scores = score(tiny.model, requests, batch_tokens=64, progress=steps.append)
    assert len(steps) > 1
    assert sum(steps) == scores.request_tokens


def _damaged(model: Model, path: str, value: float, layer: int | None = None) -> Model:
    """The model with one parameter (of one layer) set to `value`."""

    def change(where: Any, leaf: jax.Array) -> jax.Array:
        named = "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in where)
        if path not in named:
            return leaf
        return jnp.full_like(leaf, value) if layer is None else leaf.at[layer].set(value)

    return dataclasses.replace(model, state=jax.tree_util.tree_map_with_path(change, model.state))


class TestNotFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("path", ["norm/scale", "lm_head/kernel"])
    def test_no_score_comes_of_it(self, path: str, value: float) -> None:
        model = _damaged(make_tiny("grouped-query").model, path, value)
        plan = Plan.parse("0 {1 2}*2")
        with pytest.raises(ModelOutputError, match=r"under plan 0 \{1 2\}\*2.*float32"):
            score(model, [Request.of([1, 2], [3], MAX_LENGTH)], plan, batch_tokens=128)

    def test_only_the_layers_of_the_plan_count(self) -> None:
        intact = make_tiny("grouped-query").model
        broken = _damaged(intact, "mlp/up_proj/kernel", np.nan, layer=2)
        requests = [Request.of([1, 2], [3], MAX_LENGTH)]
        without = Plan.parse("0-1 3-4")
        scores = score(broken, requests, without, batch_tokens=128)
        np.testing.assert_array_equal(scores.loglikelihoods, score(intact, requests, without).loglikelihoods)
        for plan in ("0-4", "0 {1-3}*2 4", "{2 4}"):
            with pytest.raises(ModelOutputError):
                score(broken, requests, Plan.parse(plan), batch_tokens=128)

    def test_the_damage_is_where_the_tests_put_it(self) -> None:
        model = make_tiny("grouped-query").model
        broken = _damaged(model, "lm_head/kernel", np.nan)
        before, after = (flatten_dict(nnx.to_pure_dict(state), sep="/") for state in (model.state, broken.state))
        changed = [path for path in before if not np.array_equal(before[path], after[path])]
        assert changed == ["lm_head/kernel"]


def test_layers_outside_the_model() -> None:
    with pytest.raises(PlanError, match="5 layers"):
        score(make_tiny("grouped-query").model, [Request.of([1], [2], MAX_LENGTH)], Plan.parse("0-5"))


@pytest.mark.slow
def test_100_plans_compile_once_per_batch_shape() -> None:
    tiny, random = make_tiny("grouped-query"), np.random.default_rng(0)
    requests = _requests(tiny)
    batches = pack(requests, batch_tokens=192, attention_cost=attention_cost(tiny.model))
    shapes = {batch.tokens.shape for batch in batches}
    orders = [Plan.of(random.integers(0, NUM_LAYERS, random.integers(6, 16)).tolist()) for _ in range(80)]
    groups = [Plan.of(0, Repeat(Parallel((Layer(1), Layer(i % 4), Layer(2))), 1 + i // 4), 4) for i in range(20)]
    assert len({*orders, *groups}) == 100
    executables = (walk._embed_stream, walk.segment, head._at_scored)
    for executable in executables:
        executable.clear_cache()
    for plan in (*orders, *groups):
        score(tiny.model, requests, plan, batch_tokens=192)
    # Embedding, one for series and one for groups, head.
    assert len(shapes) <= 2
    assert [each.executables() for each in executables] == [len(shapes), 2 * len(shapes), len(shapes)]

"""BERT against transformers: blocks, model, heads, plans; what needs a decoder is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpaint.analysis.states import analyse
from jaxpaint.base.errors import UserError
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.fields import ConfigError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import STRATEGIES, family
from tests.helpers.bert_models import LONGEST, NUM_LAYERS, SIZES, VOCAB_SIZE, tiny_bert, torch_bert, torch_outputs
from tests.helpers.decoders import make_tiny
from tests.helpers.oracle import run_slowly

LENGTHS = np.array([LONGEST, 3, 15])
VARIANTS = [variant for name in STRATEGIES for variant in family(name, NUM_LAYERS, seeds=range(2))]
SERIES = [variant for variant in VARIANTS if variant.plan.is_sequence]
OTHERS = [variant for variant in VARIANTS if not (variant.plan.is_sequence or variant.plan.shares_norms)]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, lengths and token types of three padded rows."""
    random = np.random.default_rng(0)
    return random.integers(0, VOCAB_SIZE, (3, LONGEST)), LENGTHS, random.integers(0, 3, (3, LONGEST))


def _close(ours: Any, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Equal wherever there is text."""
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(ours[row, :length], theirs[row, :length], rtol=tolerance, atol=tolerance)


@pytest.mark.smoke
@pytest.mark.parametrize("hidden_act", ["gelu", "relu", "gelu_new"])
@pytest.mark.few(1)
def test_logits_and_pooled_output_equal_transformers(hidden_act: str, rows: Any) -> None:
    tokens, lengths, types = rows
    logits, pooled, _ = torch_outputs(torch_bert(hidden_act), *rows)
    model = tiny_bert(hidden_act)
    assert logits.std() > 0.5, "logits this flat would not show a difference"
    assert 0.1 < np.abs(pooled).mean() < 0.95, "neither flat nor saturated"
    _close(model.logits(tokens, lengths=lengths, token_types=types), logits)
    np.testing.assert_allclose(model.pooled(tokens, lengths=lengths, token_types=types), pooled, rtol=1e-4, atol=1e-4)


def test_the_layers_states_equal_transformers(rows: Any) -> None:
    tokens, lengths, types = rows
    _, _, theirs = torch_outputs(torch_bert(), *rows)
    ours = tiny_bert().hidden_states(tokens, lengths=lengths, token_types=types)
    assert len(ours) == len(theirs) == NUM_LAYERS + 1
    for state, expected in zip(ours, theirs, strict=True):
        _close(state, expected, 1e-5)


def test_token_types_are_zeros_where_they_are_left_out(rows: Any) -> None:
    tokens, lengths, types = rows
    model = tiny_bert()
    without = model.logits(tokens, lengths=lengths)
    np.testing.assert_array_equal(without, model.logits(tokens, lengths=lengths, token_types=np.zeros_like(types)))
    assert np.abs(without - model.logits(tokens, lengths=lengths, token_types=types)).max() > 0.1


@pytest.mark.parametrize("variant", SERIES, ids=lambda variant: variant.label)
def test_series_plans_are_transformers_with_its_layers_rearranged(variant: Any, rows: Any) -> None:
    tokens, lengths, types = rows
    logits, pooled, _ = torch_outputs(torch_bert(), *rows, layers=variant.plan.sequence())
    _close(tiny_bert().logits(tokens, variant.plan, lengths, types), logits)
    np.testing.assert_allclose(tiny_bert().pooled(tokens, variant.plan, lengths, types), pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", OTHERS, ids=lambda variant: variant.label)
@pytest.mark.few(1)
def test_other_plans_are_the_slow_twin(variant: Any, rows: Any) -> None:
    tokens, lengths, types = rows
    model = tiny_bert()
    module = nnx.merge(model.graphdef, model.state)
    graphdef, stacked = nnx.split(module.blocks)

    def layer(parameters: Any, x: Any, context: Any, part: Any = "whole") -> Any:
        return nnx.merge(graphdef, parameters)(x, context, part=part)

    block = jax.jit(layer, static_argnames="part")
    context = module.row_context(jnp.array(lengths), LONGEST)
    x = module.embed(jnp.array(tokens), jnp.arange(LONGEST)[None], jnp.array(types))
    expected = np.asarray(module.logits(run_slowly(block, stacked, variant.plan, x, context)[0]))
    for static in (False, True):
        _close(model.logits(tokens, variant.plan, lengths, types, static=static), expected)


def test_padding_changes_nothing(rows: Any) -> None:
    tokens, _, types = rows
    plan = Plan.parse("0 {1-3}*2 4")
    alone = tiny_bert().logits(tokens[1:2, :7], plan, None, types[1:2, :7])
    padded = tiny_bert().logits(tokens[1:2], plan, [7], types[1:2])
    np.testing.assert_allclose(padded[:, :7], alone, rtol=1e-5, atol=1e-5)


def test_later_tokens_matter(rows: Any) -> None:
    """As they do not in a decoder."""
    changed = rows[0].copy()
    changed[0, -1] = (changed[0, -1] + 1) % VOCAB_SIZE
    assert np.abs(tiny_bert().logits(rows[0])[0, 0] - tiny_bert().logits(changed)[0, 0]).max() > 1e-3


def test_similarity_between_states(rows: Any) -> None:
    """Figure 3 for BERT: cosines between flattened states, from transformers' own."""
    tokens, lengths, _ = rows
    _, _, states = torch_outputs(torch_bert(), tokens, lengths, np.zeros_like(tokens))
    expected = np.zeros((NUM_LAYERS + 1, NUM_LAYERS + 1))
    for row, length in enumerate(lengths):
        flat = np.stack([state[row, :length].ravel() for state in states]).astype(np.float64)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        expected += flat @ flat.T / len(lengths)
    texts = [text[:length].tolist() for text, length in zip(tokens, lengths, strict=True)]
    (found,) = analyse(tiny_bert(), texts, [tiny_bert().full_plan])
    np.testing.assert_allclose(found.similarity, expected, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("types", "named"),
        [
            (np.zeros((1, 3), int), r"\(1, 3\)"),
            (np.zeros((1, 4)), "float64"),
            (np.full((1, 4), 3), "3"),
            (np.full((1, 4), -1), "-1"),
        ],
    )
    def test_token_types(self, types: np.ndarray, named: str) -> None:
        with pytest.raises(UserError, match=named):
            tiny_bert().logits(np.zeros((1, 4), int), token_types=types)

    def test_a_decoder_has_neither_token_types_nor_a_pooler(self) -> None:
        tokens, model = np.zeros((1, 4), int), make_tiny("grouped-query").model
        with pytest.raises(UserError, match="no token types"):
            model.logits(tokens, token_types=tokens)
        with pytest.raises(UserError, match="no pooler"):
            model.pooled(tokens)

    def test_an_encoder_scores_and_writes_no_continuations(self) -> None:
        from jaxpaint.engine.packing import Request
        from jaxpaint.engine.score import score, score_plans
        from jaxpaint.generation.serve import Prompt, generate

        model = tiny_bert()
        request = Request.of([1, 2], [3], 40)
        for call in (
            lambda: score(model, [request]),
            lambda: score_plans(model, [request], [model.full_plan]),
            lambda: generate(model, [Prompt((1, 2), 3)], [model.full_plan]),
        ):
            with pytest.raises(UserError, match="needs a decoder"):
                call()


CONFIG: dict[str, Any] = {**SIZES, "model_type": "bert"}


class TestConfig:
    def test_reads_what_transformers_writes(self) -> None:
        raw = json.loads(torch_bert().config.to_json_string())
        config = from_huggingface(raw)
        for name, value in SIZES.items():
            assert getattr(config, name) == value
        assert from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_silent_attributes_take_the_defaults_of_transformers(self) -> None:
        from transformers import BertConfig

        silent = {name: value for name, value in CONFIG.items() if name not in ("layer_norm_eps", "type_vocab_size")}
        config, theirs = from_huggingface({**silent, "max_position_embeddings": None}), BertConfig()
        names = ("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act")
        for name in (*names, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            assert getattr(config, name) == getattr(theirs, name), name

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
            ({"is_decoder": True}, "is_decoder=True"),
            ({"tie_word_embeddings": False}, "tie_word_embeddings"),
            ({"num_attention_heads": 5}, "num_attention_heads=5"),
            ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob=1.5"),
            ({"classifier_dropout": 1}, "classifier_dropout=1"),
            ({"attention_probs_dropout_prob": "some"}, "attention_probs_dropout_prob='some'"),
            ({"num_hidden_layers": None}, "num_hidden_layers"),
            ({"embedding_size": 128}, "embedding_size=128"),
        ],
    )
    def test_refused_by_name(self, change: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigError, match=named):
            from_huggingface({**CONFIG, **change})


@pytest.mark.slow
def test_bfloat16_keeps_its_statistics_in_float32() -> None:
    model = tiny_bert()
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.state)
    low = dataclasses.replace(model, state=state)
    tokens = np.random.default_rng(1).integers(0, VOCAB_SIZE, (2, 9))
    logits = np.asarray(low.logits(tokens))
    assert logits.dtype == np.float32
    assert np.corrcoef(logits.ravel(), np.asarray(model.logits(tokens)).ravel())[0, 1] > 0.99

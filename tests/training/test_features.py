"""Pooled features of pairs under many plans equal transformers', example by example."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.glue import Examples, glue_task
from jaxpaint.training.features import Encoded, check_max_length, encode, pooled_features
from tests.helpers.bert_models import NUM_LAYERS, VOCAB_SIZE, tiny_bert, torch_bert, torch_outputs
from tests.helpers.tiny_glue import WORDS, tiny_store

PLANS = [Plan.parse(text) for text in ("0-4", "0 4", "0 3-1 4", "0-4", "0 2*3 4")]


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    random = np.random.default_rng(0)
    lengths = (3, 20, 9, 36, 8, 5, 33, 17)
    tokens = tuple(random.integers(0, VOCAB_SIZE, length).astype(np.int32) for length in lengths)
    return Encoded(tokens, tuple((np.arange(length) > length // 2).astype(np.int32) for length in lengths))


@pytest.mark.slow
def test_equal_transformers(encoded: Encoded) -> None:
    done: list[int] = []
    found = pooled_features(tiny_bert(), encoded, PLANS, batch_tokens=96, progress=done.append)
    assert found.shape == (len(PLANS), len(encoded), 32)
    assert found.dtype == np.float32
    assert sum(done) == len(encoded)
    assert len(done) > 2
    for example, (tokens, types) in enumerate(zip(encoded.tokens, encoded.token_types, strict=True)):
        for plan, ours in zip(PLANS, found[:, example], strict=True):
            theirs = torch_outputs(torch_bert(), tokens[None], [len(tokens)], types[None], plan.sequence())[1][0]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_groups_equal_the_plan_alone(encoded: Encoded) -> None:
    plans = [Plan.parse("0 {1-3}*2 4"), Plan.parse("0 {(1 2) 3} 4")]
    found = pooled_features(tiny_bert(), encoded, [*plans, *PLANS])
    for plan, ours in zip(plans, found, strict=False):
        for example in (1, 3):
            tokens, types = encoded.tokens[example][None], encoded.token_types[example][None]
            alone = tiny_bert().pooled(tokens, plan, token_types=types)[0]
            np.testing.assert_allclose(ours[example], alone, rtol=1e-4, atol=1e-5)


def test_a_plan_that_does_not_fit(encoded: Encoded) -> None:
    with pytest.raises(UserError, match=f"{NUM_LAYERS} layers"):
        pooled_features(tiny_bert(), encoded, [Plan.parse("0-7")])


@pytest.mark.parametrize(("field", "size"), [("vocab_size", 6), ("type_vocab_size", 1)])
@pytest.mark.few(1)
def test_a_tokenizer_of_another_model(model: jp.Model, field: str, size: int) -> None:
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, **{field: size}))
    pair = Examples(((" ".join(WORDS[:3]), WORDS[4]),), np.zeros(1, np.int32))
    with pytest.raises(UserError, match=f"the model's {field} is {size}: the tokenizer is another model's"):
        encode(other, pair, max_length=16)


CLS, SEP, FIRST_WORD = 2, 3, 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> jp.Model:
    return jp.load(tiny_store(tmp_path_factory.mktemp("bert")), dtype="float32")


def _words(*numbers: int) -> str:
    return " ".join(WORDS[number] for number in numbers)


def test_a_pair_that_is_too_long_is_cut_where_it_is_longest(model: jp.Model) -> None:
    """As transformers' `truncation=True`: word by word from the longer text, and the special tokens stay."""
    pair = (_words(*range(10)), _words(10, 11, 12))
    found = encode(model, Examples((pair,), np.zeros(1, np.int32)), max_length=10)
    first, second = [FIRST_WORD + i for i in range(4)], [FIRST_WORD + i for i in (10, 11, 12)]
    assert found.tokens[0].tolist() == [CLS, *first, SEP, *second, SEP]
    assert found.token_types[0].tolist() == [0] * 6 + [1] * 4
    whole = encode(model, Examples((pair,), np.zeros(1, np.int32)), max_length=16)
    assert len(whole.tokens[0]) == 16


@pytest.mark.parametrize(("task", "least"), [("cola", 3), ("rte", 5)])
def test_room_for_a_token_of_every_text(model: jp.Model, task: str, least: int) -> None:
    check_max_length(model, glue_task(task), least)
    check_max_length(model, glue_task(task), model.config.max_position_embeddings)
    with pytest.raises(UserError, match=f"max_length is {least - 1}; {task} takes {least} or more"):
        check_max_length(model, glue_task(task), least - 1)
    with pytest.raises(UserError, match="more than the model's 40 positions"):
        check_max_length(model, glue_task(task), model.config.max_position_embeddings + 1)

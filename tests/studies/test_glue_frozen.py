"""A frozen GLUE study end to end on a tiny BERT: what lands in the store, and what is not done twice."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.plans.strategies import CUSTOM, Variant, family
from jaxpaint.results.store import Store
from jaxpaint.studies.glue import run_frozen
from jaxpaint.studies.glue_cells import GlueRequests
from jaxpaint.tasks.glue import Examples, glue_task
from jaxpaint.training.settings import HEAD
from tests.helpers.bert_models import NUM_LAYERS, VOCAB_SIZE, torch_bert
from tests.helpers.decoders import make_tiny

SETTINGS = dataclasses.replace(HEAD, batch_size=16, epochs=6, max_length=16, seeds=(0, 1))
WORDS = [f"w{i}" for i in range(VOCAB_SIZE - 5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jp.Model:
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    torch_bert().save_pretrained(folder / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "model")
    return jp.load(convert(folder / "model", folder / "store"), dtype="float32")


def _examples(seed: int, size: int) -> Examples:
    """Pairs whose label says which few words they are made of."""
    random = np.random.default_rng(seed)
    texts, labels = [], random.integers(0, 2, size).astype(np.int32)
    for label in labels:
        pair = (random.integers(3, size=random.integers(2, 9)) + 3 * label for _ in range(2))
        texts.append(tuple(" ".join(WORDS[i] for i in words) for words in pair))
    return Examples(tuple(texts), labels)


VARIANTS = [variant for name in ("full", "skip", "parallel") for variant in family(name, NUM_LAYERS)]
TRAIN, VALIDATION = _examples(0, 200), _examples(1, 60)


def _run(
    model: jp.Model, store: Store, variants=VARIANTS, validation: Examples = VALIDATION, train: Examples = TRAIN
) -> int:
    return run_frozen(store, model, GlueRequests(glue_task("mrpc"), train, validation), variants, SETTINGS)


@pytest.mark.slow
def test_scores_of_every_plan_are_kept_and_not_computed_again(model: jp.Model, tmp_path: Path) -> None:
    with Store.open(tmp_path / "glue.sqlite", create=True) as store:
        assert _run(model, store, VARIANTS[:2]) == 2
        plans = {variant.plan for variant in VARIANTS}
        assert _run(model, store) == len(plans) - 2
        assert _run(model, store) == 0
    with closing(sqlite3.connect(tmp_path / "glue.sqlite")) as connection:
        rows = connection.execute(
            "SELECT plan, metric, value, stderr FROM results WHERE task = 'mrpc' ORDER BY plan, metric"
        ).fetchall()
        documents = connection.execute("SELECT count(*), avg(value) FROM document_scores GROUP BY cell").fetchall()
    assert {plan for plan, *_ in rows} == {str(plan) for plan in plans}
    found = {(plan, metric): (value, stderr) for plan, metric, value, stderr in rows}
    for plan in map(str, plans):
        f1, accuracy, score = (found[plan, name][0] for name in ("f1", "accuracy", "score"))
        assert score == pytest.approx((f1 + accuracy) / 2)
        assert all(0 <= found[plan, name][1] < 0.2 for name in ("f1", "accuracy", "score"))
    assert {count for count, _ in documents} == {60}
    assert sorted(value for _, value in documents) == pytest.approx(
        sorted(found[plan, "accuracy"][0] for plan in map(str, plans))
    )
    assert found[str(model.full_plan), "accuracy"][0] > 0.6, "a pooled output from which something can be learnt"


@pytest.mark.slow
def test_more_validation_examples_are_computed_and_others_refused(model: jp.Model, tmp_path: Path) -> None:
    more = Examples(VALIDATION.texts + _examples(2, 5).texts, np.concatenate([VALIDATION.labels, [0, 1, 0, 1, 0]]))
    with Store.open(tmp_path / "glue.sqlite", create=True) as store:
        assert _run(model, store, VARIANTS[:1]) == 1
        assert _run(model, store, VARIANTS[:1], more) == 1
        assert _run(model, store, VARIANTS[:1]) == 0
        with pytest.raises(UserError, match="other"):
            _run(model, store, VARIANTS[:1], _examples(3, 60))


def test_dropout_is_the_model_s(model: jp.Model, tmp_path: Path) -> None:
    """As transformers reads it: the classifier's own rate, or else that of hidden states."""
    kept = []
    for hidden, own in ((0.1, 0.6), (0.6, None)):
        config = dataclasses.replace(model.config, hidden_dropout_prob=hidden, classifier_dropout=own)
        with Store.open(tmp_path / f"{hidden}.sqlite", create=True) as store:
            _run(dataclasses.replace(model, config=config), store, VARIANTS[:1])
            ((settings,),) = store.connection.execute("SELECT settings FROM tasks").fetchall()
        kept.append(json.loads(settings)["head"]["dropout"])
    assert kept == [0.6, 0.6]


@pytest.mark.slow
def test_parts_that_fit_memory_give_the_same(model: jp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = []
    for name, share in (("whole", 1 / 8), ("parts", 1e-12)):
        monkeypatch.setattr("jaxpaint.studies.glue.FEATURES_SHARE", share)
        with Store.open(tmp_path / f"{name}.sqlite", create=True) as store:
            _run(model, store)
            values.append(store.connection.execute("SELECT plan, metric, value FROM results ORDER BY 1, 2").fetchall())
    assert [row[:2] for row in values[0]] == [row[:2] for row in values[1]]
    np.testing.assert_allclose([row[2] for row in values[0]], [row[2] for row in values[1]], atol=0.02)


def _damaged(model: jp.Model, name: str, row: int) -> jp.Model:
    """The model with rows that are not finite in the parameters of a name."""

    def damage(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.at[row].set(jnp.inf) if f"'{name}'" in jax.tree_util.keystr(path) else leaf

    return dataclasses.replace(model, state=jax.tree_util.tree_map_with_path(damage, model.state))


def _kept(path: Path, model: jp.Model, *plans: str, train: Examples = TRAIN) -> dict[Any, Any]:
    """By plan and metric, the state of the cell, the value and its error."""
    variants = [Variant(CUSTOM, jp.Plan.parse(text), NUM_LAYERS) for text in plans]
    with Store.open(path, create=True) as store:
        _run(model, store, variants, train=train)
        rows = store.connection.execute("SELECT plan, metric, status, value, stderr FROM results")
        return {(plan, metric): found for plan, metric, *found in rows}


def test_a_layer_that_is_not_finite_harms_its_plans_alone(model: jp.Model, tmp_path: Path) -> None:
    found = _kept(tmp_path / "damaged.sqlite", _damaged(model, "blocks", 2), "0-4", "0 1 4")
    whole = _kept(tmp_path / "whole.sqlite", model, "0 1 4")
    assert found == {**whole, ("0-4", None): ["not finite", None, None]}


def test_training_examples_that_are_not_finite_leave_no_score(model: jp.Model, tmp_path: Path) -> None:
    """Their word is in no example that is scored."""
    train = Examples((*TRAIN.texts, (WORDS[20], WORDS[0])), np.append(TRAIN.labels, 0))
    damaged = _damaged(model, "word", model.tokenizer.convert_tokens_to_ids(WORDS[20]))
    found = _kept(tmp_path / "glue.sqlite", damaged, "0 4", train=train)
    assert found == {("0 4", None): ["not finite", None, None]}


def test_a_decoder_has_no_pooler(tmp_path: Path) -> None:
    with Store.open(tmp_path / "glue.sqlite", create=True) as store, pytest.raises(UserError, match="no pooler"):
        _run(make_tiny("grouped-query").model, store)

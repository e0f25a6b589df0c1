"""What a store keeps of a classifier's logits: standard errors by their formulas, and the class to beat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.plans.strategies import CUSTOM, Variant
from jaxpaint.results.kinds import MAJORITY
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import register
from jaxpaint.studies.glue_cells import GlueRequests, finish
from jaxpaint.tasks.glue import Examples, glue_task
from tests.helpers.bert_models import NUM_LAYERS
from tests.helpers.tiny_glue import tiny_store

SIZE = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jp.Model:
    return jp.load(tiny_store(tmp_path_factory.mktemp("bert")), dtype="float32")


@pytest.fixture
def kept(model: jp.Model, tmp_path: Path) -> Callable[..., dict[str, tuple[float, float | None]]]:
    """Values and standard errors by metric."""

    def of(task: str, labels: np.ndarray, logits: np.ndarray, train: Any = (0, 1)) -> dict[str, Any]:
        train, validation = (
            Examples(tuple((str(number), "") for number in range(len(each))), np.asarray(each))
            for each in (train, labels)
        )
        variant = Variant(CUSTOM, jp.Plan.parse("0 4"), NUM_LAYERS)
        with Store.open(tmp_path / "glue.sqlite", create=True) as store:
            requests = GlueRequests(glue_task(task), train, validation)
            (cell,) = register(store, model, [variant], [requests]).cells[0].tolist()
            finish(store, cell, requests, logits)
            rows = store.connection.execute("SELECT metric, value, stderr FROM results")
            return {metric: (value, stderr) for metric, value, stderr in rows}

    return of


def _mostly_right(accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    """Two classes alike often, and logits [1, examples, 2] that are right for a share of each."""
    labels = np.arange(SIZE, dtype=np.int32) % 2
    wrong = np.arange(SIZE) >= accuracy * SIZE
    return labels, np.eye(2, dtype=np.float32)[np.where(wrong, 1 - labels, labels)][None]


def test_the_standard_error_of_an_accuracy_is_a_shares(kept) -> None:
    value, stderr = kept("rte", *_mostly_right(0.95))["accuracy"]
    assert value == pytest.approx(0.95)
    assert stderr == pytest.approx((0.95 * 0.05 / SIZE) ** 0.5, rel=0.25)


def test_more_seeds_are_not_more_examples(kept) -> None:
    labels, logits = _mostly_right(0.95)
    stderr = kept("rte", labels, np.concatenate([logits] * 4))["accuracy"][1]
    assert stderr == pytest.approx((0.95 * 0.05 / SIZE) ** 0.5, rel=0.25)


def test_the_standard_error_of_a_correlation_is_that_of_normal_numbers(kept) -> None:
    random = np.random.default_rng(0)
    labels, noise = random.normal(size=(2, SIZE)).astype(np.float32)
    value, stderr = kept("stsb", labels, (labels + 0.5 * noise)[None, :, None])["pearson"]
    assert stderr == pytest.approx((1 - value**2) / SIZE**0.5, rel=0.25)


def test_the_class_to_beat_is_the_most_frequent_one_of_training(kept) -> None:
    train, labels = np.repeat([0, 1, 2], [1, 5, 3]), np.repeat([0, 1, 2], [5, 3, 2])
    found = kept("mnli", labels, np.zeros((1, 10, 3), np.float32), train)
    assert found[MAJORITY] == (pytest.approx(3 / 10), None)


def test_one_example_tells_nothing_of_others(kept) -> None:
    found = kept("rte", np.array([1], np.int32), np.array([[[0.0, 1.0]]], np.float32))
    assert found["accuracy"] == (1.0, None)


def test_a_correlation_of_answers_that_are_all_the_same_is_0_without_a_warning(kept, recwarn) -> None:
    labels = np.array([1, 1, 1, 0], np.int32)
    found = kept("cola", labels, np.tile(np.float32([0.0, 1.0]), (1, 4, 1)))
    assert found["matthews_correlation"] == (0.0, 0.0)
    assert not recwarn.list

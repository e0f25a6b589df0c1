"""BERT on a real model and real sentence pairs, against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import jaxpaint as jp
from convert import convert
from jaxpaint.plans.strategies import family
from tests.helpers.real_assets import DATA, needs_assets

pytestmark = [pytest.mark.slow, needs_assets]
STRATEGIES = ("full", "skip", "middle-repeat", "reverse", "random", "skip-one", "switch")
SERIES = [variant for name in STRATEGIES for variant in family(name, 6, seeds=range(2)) if variant.plan.is_sequence]


@pytest.fixture(scope="module")
def model(real_bert_folder: Path, tmp_path_factory) -> jp.Model:
    return jp.load(convert(real_bert_folder, tmp_path_factory.mktemp("store") / "minilm"), dtype="float32")


@pytest.fixture(scope="module")
def torch_model(real_bert_folder: Path):
    from transformers import AutoModel

    return AutoModel.from_pretrained(real_bert_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def pairs(model: jp.Model) -> dict[str, np.ndarray]:
    """20 pairs of RTE, of many lengths, padded."""
    lines = (DATA / "glue" / "rte_validation.jsonl").read_text().splitlines()[:20]
    rows = [json.loads(line) for line in lines]
    encoded = model.tokenizer(
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
        padding=True,
        truncation=True,
        max_length=128,
        return_token_type_ids=True,
        return_tensors="np",
    )
    assert encoded["token_type_ids"].max() == 1
    assert encoded["attention_mask"].min() == 0
    return dict(encoded)


@pytest.mark.parametrize("variant", SERIES, ids=lambda variant: variant.label)
def test_states_and_pooled_output_equal_transformers(variant, model, torch_model, pairs) -> None:
    lengths = pairs["attention_mask"].sum(axis=1)
    original = torch_model.encoder.layer
    try:
        torch_model.encoder.layer = torch.nn.ModuleList(original[i] for i in variant.plan.sequence())
        with torch.no_grad():
            theirs = torch_model(**{name: torch.tensor(value) for name, value in pairs.items()})
    finally:
        torch_model.encoder.layer = original
    inputs = pairs["input_ids"], variant.plan, lengths, pairs["token_type_ids"]
    np.testing.assert_allclose(model.pooled(*inputs), theirs.pooler_output.numpy(), rtol=0, atol=1e-4)
    last = np.asarray(model.hidden_states(*inputs)[-1])
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(last[row, :length], theirs.last_hidden_state[row, :length], rtol=0, atol=1e-4)

"""The most likely next tokens, beside transformers'."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.next_tokens import most_likely_next
from tests.helpers.tiny_folder import MAX_LENGTH, NUM_LAYERS, make_folder

TEXTS = ["A", "She put the kettle back where she had", "Where is the saddle? " * 3]


@pytest.fixture(scope="module", params=[False, True], ids=["plain tokenizer", "tokenizer that adds BOS"])
def folder(request, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("tiny") / "model", adds_bos=request.param)


@pytest.fixture(scope="module")
def model(folder) -> jp.Model:
    return jp.load(convert(folder, folder.parent / "store"), dtype="float32")


@pytest.mark.parametrize("layers", [range(NUM_LAYERS), [0, 2, 1, 4]], ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_they_are_transformers(folder, model, text, layers) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.model.layers = torch.nn.ModuleList([network.model.layers[index] for index in layers])
    tokens = torch.tensor([model.tokenizer.encode(text)])
    with torch.no_grad():
        logits = network(tokens, use_cache=False).logits[0, -1]
    expected = torch.topk(logits, 7)
    found = most_likely_next(model, jp.Plan.of(layers), text, 7)
    assert [token.id for token in found] == expected.indices.tolist()
    np.testing.assert_allclose([token.logit for token in found], expected.values, atol=1e-4)
    probabilities = torch.softmax(logits, -1)[expected.indices]
    np.testing.assert_allclose([token.probability for token in found], probabilities, atol=1e-5)
    assert [token.text for token in found] == [model.tokenizer.decode([token.id]) for token in found]


def test_as_many_as_there_are(model) -> None:
    every = most_likely_next(model, model.full_plan, "A", 10**6)
    assert len({token.id for token in every}) == model.config.vocab_size
    assert sum(token.probability for token in every) == pytest.approx(1, abs=1e-5)


def test_a_text_that_fills_the_model_and_one_beyond(model) -> None:
    text = ""
    while len(model.tokenizer.encode(text + "A")) <= MAX_LENGTH:
        text += "A"
    assert len(model.tokenizer.encode(text)) == MAX_LENGTH
    assert most_likely_next(model, model.full_plan, text, 1)
    with pytest.raises(
        UserError, match=f"the text has {MAX_LENGTH + 1} tokens; the model's context holds {MAX_LENGTH}"
    ):
        most_likely_next(model, model.full_plan, text + "A", 1)


def test_mistakes(model) -> None:
    with pytest.raises(UserError, match="0 tokens to show"):
        most_likely_next(model, model.full_plan, "A", 0)
    with pytest.raises(jp.PlanError, match=f"the model has {NUM_LAYERS} layers"):
        most_likely_next(model, jp.Plan.of([NUM_LAYERS]), "A")
    if not model.tokenizer.encode(""):
        with pytest.raises(UserError, match="the text is empty"):
            most_likely_next(model, model.full_plan, "")


def test_nan_is_an_error(model) -> None:
    broken = dataclasses.replace(model, state=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), model.state))
    with pytest.raises(ModelOutputError, match="under plan 0-4"):
        most_likely_next(broken, model.full_plan, "A")

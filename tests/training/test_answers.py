"""What a task's training documents become, and that what is trained is what is scored."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.engine.score import score
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import load_tasks
from jaxpaint.tasks.requests import load_requests
from jaxpaint.training.answers import overlap, training_examples
from jaxpaint.training.batches import answer_batches
from jaxpaint.training.planned import planned_decoder
from jaxpaint.training.tune import host_parameters, of_layers, own_layers
from tests.helpers.tiny_tasks import NOUNS, make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
# The training documents of `tiny_tasks` are those with the numbers 100, 101, …
FIRST = {
    "tiny_choice": ("Question: Where is thing 100?\nAnswer:", " D!"),
    "tiny_word": (f"100: she put the {NOUNS[2]} on the", f" {NOUNS[0]}"),
    "tiny_blank": (f"Ada got the {NOUNS[0]} as Bea", " had asked for number 100."),
    "tiny_write": (f"100: she put the {NOUNS[2]} on the", f"  {NOUNS[0]}"),
}


@pytest.fixture(scope="module")
def lm(store: Path) -> PlanLM:
    model = jp.load(store, dtype="float32")
    return PlanLM(model, jp.Plan.parse("0 1 4"), bos="on")


@pytest.mark.parametrize("name", FIRST)
def test_a_document_is_asked_and_answered_as_it_is_scored(name: str, lm: PlanLM, tmp_path: Path) -> None:
    path = make_task(tmp_path, name, training_split="train")
    (task,) = load_tasks([path])["tasks"].values()
    found = training_examples(lm.encoding, name, task, limit=5)
    context, answer = FIRST[name]
    assert len(found) == 5
    assert found.texts[0] == context + answer
    request = found.requests[0]
    count = len(request.targets)
    assert lm.encoding.tokenizer.decode(request.targets) == answer
    assert request.tokens[0] == lm.encoding.tokenizer.bos_token_id
    assert lm.encoding.tokenizer.decode(request.tokens[1 : len(request.tokens) - count + 1]) == context
    assert found.digest == training_examples(lm.encoding, name, task, limit=5).digest
    assert found.digest != training_examples(lm.encoding, name, task, limit=4).digest


def test_texts_without_a_question_are_their_own_answers(lm: PlanLM, tmp_path: Path) -> None:
    (task,) = load_tasks([make_task(tmp_path, "tiny_text", training_split="train")])["tasks"].values()
    found = training_examples(lm.encoding, "tiny_text", task)
    assert found.texts[0] == "The kettle is in the harbour."
    assert lm.encoding.tokenizer.decode(found.requests[0].targets, skip_special_tokens=True) == found.texts[0]
    assert len(found) > len(found.texts), "a text longer than the model is several requests"


def test_the_loss_is_what_scoring_measures(lm: PlanLM, tmp_path: Path) -> None:
    """Minus the answers' log-likelihoods by the scoring engine, over their tokens."""
    (task,) = load_tasks([make_task(tmp_path, "tiny_choice", training_split="train")])["tasks"].values()
    found = training_examples(lm.encoding, "tiny_choice", task)
    expected = -score(lm.model, found.requests, lm.plan).loglikelihoods.sum()
    expected /= sum(len(request.targets) for request in found.requests)
    everything = np.arange(len(found), dtype=np.int32)[None]
    ((batch,),) = answer_batches(found.requests, everything, np.ones(everything.shape, np.float32), len(found))(0)
    own, layers = own_layers(lm.plan)
    planned = jax.jit(planned_decoder(lm.model.config, lm.model.dtype, own))
    assert float(planned(of_layers(host_parameters(lm.model), layers), batch)) == pytest.approx(expected, rel=1e-5)


def test_an_overlap_with_what_is_scored_is_counted(lm: PlanLM, tmp_path: Path) -> None:
    for split, expected in (("train", 0), ("test", 12)):
        tasks = load_tasks([make_task(tmp_path / split, "tiny_choice", training_split=split)])
        (requests,) = load_requests(lm.encoding, tasks)
        assert overlap(training_examples(lm.encoding, requests.name, requests.task), requests.instances) == expected


def test_what_cannot_be_trained_on_is_told(lm: PlanLM, tmp_path: Path) -> None:
    for number, (changes, told) in enumerate(
        (
            ({}, "task 'tiny_choice' has no training documents here.*tiny_choice:train=FILE"),
            ({"training_split": "train", "doc_to_target": "nowhere"}, "training document 0: its answer 'nowhere' is"),
        )
    ):
        (task,) = load_tasks([make_task(tmp_path / str(number), "tiny_choice", **changes)])["tasks"].values()
        with pytest.raises(UserError, match=told):
            training_examples(lm.encoding, "tiny_choice", task)

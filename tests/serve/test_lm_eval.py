"""lm-eval's own client against a running server: the log-likelihoods and scores of `jaxpaint eval`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

import jaxpaint as jp
from jaxpaint.base.bundled import FOLDER
from jaxpaint.engine.score import score_plans
from jaxpaint.tasks.encoding import Encoding
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from tests.helpers.running_server import running

WIDE = "0-5 {6-9} 10-15"
PLANS = {"tiny": "0-15", "tiny@wide": WIDE}
PAIRS = [
    ("the red boat is in", " the harbour ."),
    ("the red boat is in the", " garden"),
    ("the red", " box . ola puts the"),  # what both plans write
    ("ola puts the silver", " box . the box is in the garden ."),
    ("question", " answer question answer"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[jp.Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPAINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield jp.load("painter-16")


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with running(model, [f"wide={WIDE}"]) as address:
        yield address


def client(address: str, name: str, **how: object) -> LocalCompletionsAPI:
    """As lm_eval --model local-completions makes it of --model_args."""
    url = f"{address}/v1/completions"
    # painter-16's tokenizer begins texts with BOS, which the client leaves out unless it is told.
    return LocalCompletionsAPI(
        base_url=url, model=name, tokenizer_backend="huggingface", tokenizer=str(FOLDER), add_bos_token=True, **how
    )


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("how", [{}, {"batch_size": 3}, {"tokenized_requests": False}], ids=str)
@pytest.mark.few(1)
def test_log_likelihoods(address, model, name, how) -> None:
    instances = [Instance("loglikelihood", {}, pair, index, ("t", index, 1)) for index, pair in enumerate(PAIRS)]
    encoding = Encoding.of(model)
    asked = [request for instance in instances for request in encoding.encode(instance)]
    expected = score_plans(model, asked, [jp.Plan.parse(PLANS[name])])
    found = client(address, name, **how).loglikelihood(instances)
    np.testing.assert_allclose([value for value, _ in found], expected.loglikelihoods[0], atol=1e-4)
    assert [greedy for _, greedy in found] == expected.is_greedy[0].tolist()
    assert len({greedy for _, greedy in found}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_scores_are_those_of_eval(address, model, name) -> None:
    """Multiple choice, log-likelihoods of words, and answers written step by step."""
    names = ["painter_facts", "painter_letters", "painter_arithmetic"]
    settings = {"limit": 24, "bootstrap_iters": 0}
    expected = evaluate(PlanLM(model, jp.Plan.parse(PLANS[name])), load_tasks(names), **settings)["results"]
    found = evaluate(client(address, name, batch_size=8), load_tasks(names), **settings)["results"]
    assert found.keys() == set(names)
    for task in names:
        numbers = {key: value for key, value in expected[task].items() if isinstance(value, float)}
        assert len(numbers) >= 1
        assert {key: found[task][key] for key in numbers} == pytest.approx(numbers, abs=1e-4, nan_ok=True), task

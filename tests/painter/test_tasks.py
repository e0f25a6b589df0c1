"""The tasks that come with the package: whoever knows every answer has all of the score, who guesses has chance's."""

from __future__ import annotations

import json

import pytest
from lm_eval.api.model import LM

from jaxpaint.painter.items import KINDS, items
from jaxpaint.painter.tokenizer import UNKNOWN, VOCABULARY, tokenizer
from jaxpaint.tasks.load import evaluate, load_tasks

NAMES = [f"painter_{kind}" for kind in KINDS]


class Answering(LM):
    """Gives the right answer to all documents, or to every other one."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _right(self, request) -> bool:
        return request.doc_id % self.every == 0

    def loglikelihood(self, requests):
        found = []
        for request in requests:
            of_choices = "gold" in request.doc
            chosen = (
                (request.idx == request.doc["gold"]) == self._right(request) if of_choices else self._right(request)
            )
            found.append((0.0 if chosen else -10.0, chosen))
        return found

    def generate_until(self, requests):
        return [request.doc["answer"] if self._right(request) else "#### 31 ." for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no task asks for it")


@pytest.mark.parametrize(("every", "score"), [(1, 1.0), (2, 0.5)])
def test_scores_are_the_share_of_right_answers(every: int, score: float) -> None:
    results = evaluate(Answering(every), load_tasks(NAMES), limit=40, bootstrap_iters=0)["results"]
    for name in NAMES:
        metric = "exact_match,strict-match" if name == "painter_arithmetic" else "acc,none"
        assert results[name][metric] == score, name


def test_every_word_that_is_scored_is_a_token_of_its_own() -> None:
    """Without the space before its first word a continuation is one with the context's last, and nothing is scored."""
    words, tasks = tokenizer(256), load_tasks(NAMES)["tasks"]
    for name, task in tasks.items():
        task.build_all_requests(limit=20, rank=0, world_size=1)
        for instance in task.instances:
            context, rest = instance.args
            if instance.request_type != "loglikelihood":
                rest = ""
            tokens = words.encode(context + rest)
            assert len(tokens) == 1 + len(context.split()) + len(rest.split()), (name, instance.args)
            assert VOCABULARY[UNKNOWN] not in tokens, (name, instance.args)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_has_documents_to_train_on_that_it_does_not_ask(kind: str) -> None:
    task = load_tasks([f"painter_{kind}"])["tasks"][f"painter_{kind}"]
    asked, to_train_on = ([str(document) for document in each] for each in (task.test_docs(), task.training_docs()))
    assert len(to_train_on) == len(set(to_train_on)) == len(asked)
    assert not {*asked} & {*to_train_on}
    assert to_train_on == [str(item) for item in items(kind, held=False)]


def test_a_file_to_train_on_goes_before_the_packages_own(tmp_path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items("facts", 3, held=False)))
    task = load_tasks(["painter_facts"], data={"painter_facts": {"train": file}})["tasks"]["painter_facts"]
    assert (len(task.training_docs()), len(task.test_docs())) == (3, 96)

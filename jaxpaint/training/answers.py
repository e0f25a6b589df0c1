"""A task's training documents as lm-eval asks and answers them, in tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import text_digest
from jaxpaint.engine.packing import Request
from jaxpaint.tasks.calls import in_tasks
from jaxpaint.tasks.encoding import Encoding

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


@dataclass(frozen=True, eq=False)
class TrainingExamples:
    """Texts with their right answers. The `targets` of a request are the answer's tokens.

    `texts` are what is asked and answered, joined, and `digest` tells them from others.
    """

    requests: tuple[Request, ...]
    texts: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.requests)


def training_examples(encoding: Encoding, name: str, task: Task, limit: int | None = None) -> TrainingExamples:
    """The first `limit` documents of a task's training split, without few-shot examples, encoded as they are scored.

    A multiple-choice document is its prompt with the right choice, a text to predict is the task's own pair of context
    and text, of a generative task the prompt with the target. Answers without a token are left out.
    Raises UserError for a task without training documents, a document without a right answer or longer than the model.
    """
    require_training_documents(name, task)
    with in_tasks():
        documents = islice(task.training_docs() or (), limit)
        instances = [_answered(name, number, task, document) for number, document in enumerate(documents)]
    requests = tuple(request for instance in instances for request in encoding.encode(instance) if request.targets)
    if not requests:
        raise UserError(f"task {name!r}: none of the {len(instances)} training documents has an answer to train on")
    digest = text_digest(json.dumps([list(instance.args) for instance in instances]))
    return TrainingExamples(requests, tuple("".join(instance.args) for instance in instances), digest)


def require_training_documents(name: str, task: Any) -> None:
    """Raises UserError for a task without any."""
    with in_tasks():
        if not task.has_training_docs():
            raise UserError(
                f"task {name!r} has no training documents here; with local files, add --data {name}:train=FILE (the "
                "name of the task's training split), else choose a task with a training split"
            )


def overlap(examples: TrainingExamples, instances: Iterable[Instance]) -> int:
    """How many of the examples' texts are also among the scored ones."""
    scored = {"".join(argument for argument in instance.args if isinstance(argument, str)) for instance in instances}
    return sum(text in scored for text in examples.texts)


def _answered(name: str, number: int, task: Any, document: Any) -> Instance:
    """The request, among those that lm-eval makes of a document, whose answer is right."""
    from lm_eval.api.instance import Instance

    right = _right_choice(name, number, task, document) if task.OUTPUT_TYPE == "multiple_choice" else None
    context = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
    made = task.construct_requests(document, context, metadata=(name, number, 1))
    if right is not None:
        return made[right]
    if task.OUTPUT_TYPE == "generate_until":
        target = task.doc_to_target(document)
        target = target[0] if isinstance(target, list) else target
        return Instance("loglikelihood", document, (context, f"{task.config.target_delimiter}{target}"), 0)
    return made


def _right_choice(name: str, number: int, task: Any, document: Any) -> int:
    """As lm-eval finds it (`ConfigurableTask.process_results`); of several the first."""
    choices = task.doc_to_choice(document)
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    if isinstance(gold, str) and gold in choices:
        gold = choices.index(gold)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise UserError(f"task {name!r}, training document {number}: its answer {gold!r} is none of its choices")
    return gold

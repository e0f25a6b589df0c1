"""Documents as people read them: question and right answer, as a task's own prompt has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxpaint.results.document_texts import DocumentText

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


def document_texts(
    task: Task, instances: Sequence[Instance], documents: Collection[int]
) -> Iterator[tuple[int, DocumentText]]:
    """The numbers and texts of those of the documents that `instances` ask, without examples before the question.

    A document of which the task's code has none is left out. Where a task's choices are beginnings, the question has
    all of them and what each goes on with, and the answer is the right one.
    """
    docs = {instance.doc_id: instance.doc for instance in instances}
    for number in documents:
        try:
            text = _text(task, docs[number])
        except Exception:  # of many authors' code, and no study should end for what people may look at
            continue
        yield number, text


def _text(task: Task, doc: Any) -> DocumentText:
    question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
    if getattr(task, "multiple_input", 0):
        contexts = task.doc_to_choice(doc)
        return DocumentText(f"{' / '.join(map(str, contexts))} … {answer}", str(contexts[int(question)]))
    if getattr(task.config, "doc_to_choice", None) is not None:
        answer = _chosen(answer, task.doc_to_choice(doc))
    several = answer if isinstance(answer, list | tuple) else [answer]
    return DocumentText(str(question), " / ".join(map(str, several)))


def _chosen(answer: Any, choices: Any) -> Any:
    """The texts of choices that are named by their numbers; all else as it is."""
    if isinstance(answer, list | tuple):
        return [_chosen(each, choices) for each in answer]
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool) and answer == int(answer)
    return choices[int(answer)] if is_number and 0 <= answer < len(choices) else answer

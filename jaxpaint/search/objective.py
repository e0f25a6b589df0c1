"""What a search makes as large as it can: the log-likelihood of right answers, document by document.

It has far less noise than whether answers are right, so that few documents tell plans apart.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.calls import in_tasks
from jaxpaint.tasks.requests import TaskRequests

LAPSE = 0.1


def answer_scores(requests: TaskRequests, loglikelihoods: Float[np.ndarray, "P R"]) -> Float[np.ndarray, "P documents"]:
    """Of each plan and document, in the order of documents; nats, -inf where a log-likelihood is not finite.

    Of multiple choice it is the log of the right answer's probability among the choices, with one chance in ten of a
    guess (`LAPSE`): where answers are long a model is so sure of them that a single document outweighs all others. Of a
    text to complete it is the text's log-likelihood, of a text as a whole that by its bytes. Several right answers
    count together.

    Raises UserError for a document without a right answer among its choices.
    """
    task, of_document = requests.task, _instances(requests)
    owners = np.asarray(requests.owners)
    values = np.zeros((len(loglikelihoods), len(requests.instances)))
    np.add.at(values.T, owners, np.where(np.isfinite(loglikelihoods), loglikelihoods, -np.inf).T)
    found = np.zeros((len(loglikelihoods), len(of_document)))
    with in_tasks():
        for column, (document, places) in enumerate(sorted(of_document.items())):
            doc, own = requests.instances[places[0]].doc, values[:, places]
            if task.OUTPUT_TYPE == "multiple_choice":
                found[:, column] = _chosen(requests, document, doc, own)
            elif task.OUTPUT_TYPE == "loglikelihood_rolling":
                size = len(str(task.doc_to_target(doc)).encode())
                found[:, column] = own.sum(axis=1) / max(1, size)
            else:
                found[:, column] = own.sum(axis=1)
    return found


def _instances(requests: TaskRequests) -> dict[int, list[int]]:
    """By document, as `TaskRequests.identities` counts them, the places of its instances, in the order of choices."""
    places: dict[int, list[int]] = {}
    for place, instance in sorted(enumerate(requests.instances), key=lambda pair: pair[1].idx):
        places.setdefault(instance.doc_id, []).append(place)
    return places


def _chosen(
    requests: TaskRequests, document: int, doc: object, own: Float[np.ndarray, "P choices"]
) -> Float[np.ndarray, " P"]:
    task = requests.task
    choices = task.doc_to_choice(doc)
    right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    several = right if isinstance(right, list) else [right]
    places = [choices.index(each) if isinstance(each, str) and each in choices else each for each in several]
    places = [each for each in places if isinstance(each, int) and 0 <= each < len(choices)]
    if not places:
        raise UserError(f"task {requests.name}, document {document}: the right answer {right!r} is none of its choices")
    logits, guess = own[:, : len(choices)], len(set(places)) / len(choices)
    with np.errstate(invalid="ignore"):
        surely = np.logaddexp.reduce(logits[:, places], axis=1) - np.logaddexp.reduce(logits, axis=1)
        value = np.log((1 - LAPSE) * np.exp(surely) + LAPSE * guess)
    return np.where(np.isfinite(own).all(axis=1), value, -np.inf)

"""Which documents a search may see, and which it is judged on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import text_digest
from jaxpaint.tasks.main_metric import require_scored
from jaxpaint.tasks.requests import TaskRequests

LEAST = 4  # documents of a task on either side


@dataclass(frozen=True, eq=False)
class Split:
    """One task's documents: those that the search may see, in the order that it takes them, and the held-out ones."""

    requests: TaskRequests
    search: tuple[int, ...]
    held_out: tuple[int, ...]

    def beginning(self, share: float) -> TaskRequests:
        """The first of the search's documents, as many as `share` of them."""
        return of_documents(self.requests, self.search[: max(1, math.ceil(share * len(self.search) - 1e-9))])


def split(requests: TaskRequests, seed: int, held_out: float) -> Split:
    """Deals a task's documents by a hash of the seed, the task and the document.

    Raises UserError for a task that writes its answers, which have no log-likelihood, or with too few documents.
    """
    require_scored(requests)
    documents = sorted(
        {document for document, _, _ in requests.identities},
        key=lambda document: (text_digest(f"{seed} {requests.name} {document}"), document),
    )
    size = round(held_out * len(documents))
    if min(size, len(documents) - size) < LEAST:
        raise UserError(
            f"task {requests.name} has {len(documents)} documents, which leaves {len(documents) - size} to search on "
            f"and {size} held out; each needs {LEAST}: raise --limit, or change --held-out"
        )
    return Split(requests, tuple(documents[size:]), tuple(documents[:size]))


def only_held_out(requests: TaskRequests) -> Split:
    """A task that the search does not see. Raises UserError as `split`."""
    require_scored(requests)
    documents = tuple(sorted({document for document, _, _ in requests.identities}))
    if len(documents) < LEAST:
        raise UserError(
            f"task {requests.name} has {len(documents)} documents to confirm on; {LEAST} are needed: raise --limit, or "
            "leave it out of --held-out-tasks"
        )
    return Split(requests, (), documents)


def of_documents(requests: TaskRequests, documents: Collection[int] | Sequence[int]) -> TaskRequests:
    """The same task with some of its documents."""
    wanted = set(documents)
    kept = [place for place, (document, _, _) in enumerate(requests.identities) if document in wanted]
    owners = [requests.owners[place] for place in kept]
    instances = sorted(set(owners))
    number = {instance: place for place, instance in enumerate(instances)}
    return replace(
        requests,
        instances=tuple(requests.instances[instance] for instance in instances),
        identities=tuple(requests.identities[place] for place in kept),
        owners=tuple(number[owner] for owner in owners),
    )

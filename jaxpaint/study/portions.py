"""What a study has yet to compute, as batches that waste nothing: whole batches for the plans that miss all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Batch, Request
from jaxpaint.engine.score import pack_for


@dataclass(frozen=True, eq=False)
class Portion:
    """A batch and the plans to run it under, all of which miss all of its requests.

    `requests` are the study's, in the order of `batch.requests`; `plans` are ascending.
    """

    batch: Batch
    requests: Int[np.ndarray, " R"]
    plans: Int[np.ndarray, " P"]


def portions(
    model: Model,
    requests: Sequence[Request],
    missing: Bool[np.ndarray, "plans requests"],
    batch_tokens: int | None,
    packed: Sequence[Batch] | None = None,
) -> list[Portion]:
    """All that is missing. `packed` are the batches of all requests, where they are there already.

    Batches are those of the whole study wherever all of a batch's requests are missing under the same plans. So after
    an interruption, and in another process, batches are the same, and so are their shapes; what is left of others,
    such as after a change of the number of documents, is packed anew.
    """
    if not missing.any():
        return []
    patterns = _patterns(missing)
    found, rest = [], []
    for batch in packed or pack_for(model, requests, batch_tokens):
        if len({patterns[request] for request in batch.requests}) > 1:
            rest.append(batch.requests)
        elif missing[:, batch.requests[0]].any():
            found.append(Portion(batch, batch.requests, np.flatnonzero(missing[:, batch.requests[0]])))
    if rest:
        found += regrouped(model, requests, np.concatenate(rest), missing, batch_tokens)
    return found


def regrouped(
    model: Model,
    requests: Sequence[Request],
    chosen: Int[np.ndarray, " C"],
    missing: Bool[np.ndarray, "plans requests"],
    batch_tokens: int | None,
) -> list[Portion]:
    """What is missing of the chosen requests: those that the same plans miss are packed together."""
    patterns = _patterns(missing)
    groups: dict[bytes, list[int]] = {}
    for request in np.sort(chosen):
        if missing[:, request].any():
            groups.setdefault(patterns[request], []).append(int(request))
    return [
        Portion(batch, np.array(group)[batch.requests], np.flatnonzero(missing[:, group[0]]))
        for group in groups.values()
        for batch in pack_for(model, [requests[request] for request in group], batch_tokens)
    ]


def _patterns(missing: Bool[np.ndarray, "plans requests"]) -> list[bytes]:
    """For each request, the plans that miss it, comparable."""
    return [column.tobytes() for column in np.packbits(missing, axis=0).T]

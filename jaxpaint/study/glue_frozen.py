"""The paper's A.9: an encoder frozen under every plan, and a classifier trained on its pooled output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from jaxpaint.base.budgets import device_memory, host_memory
from jaxpaint.engine.model import Model, require_pooler
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.store import Store
from jaxpaint.study.glue_cells import register
from jaxpaint.tasks.glue import Examples, GlueTask
from jaxpaint.training.features import check_max_length, encode, pooled_features
from jaxpaint.training.heads import HeadSettings, classifier_dropout, train_heads

# Plans whose features need more than this share of a host's memory are taken in parts. Training them takes copies.
FEATURES_SHARE = 1 / 8


@dataclass(frozen=True)
class FrozenSettings:
    """`max_length` tokens an example; one classifier for each of `seeds`, whose scores are averaged."""

    head: HeadSettings = field(default_factory=HeadSettings)
    max_length: int = 128
    seeds: tuple[int, ...] = (0, 1, 2)


def run_frozen(
    model: Model,
    store: Store,
    task: GlueTask,
    train: Examples,
    validation: Examples,
    variants: Sequence[Variant],
    settings: FrozenSettings,
    *,
    environment: Mapping[str, Any],
    progress: Callable[[int], Callable[[int, str], None]] | None = None,
) -> int:
    """Scores every plan on a task's validation examples and keeps what the store lacks: how many cells it lacked.

    `progress` is told the number of examples, counted once for all plans whose features fit memory together; it gives
    what is called with the number of examples done and a note.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: a model without a pooler, a `max_length` that does not fit it, or a store that cannot be written or
            knows other validation examples.
    """
    require_pooler(model)
    check_max_length(model, task, settings.max_length)
    head = settings.head
    if head.dropout is None:
        head = replace(head, dropout=classifier_dropout(model.config))
        settings = replace(settings, head=head)
    cells = register(store, model, task, train, validation, variants, {"frozen": True, **asdict(settings)})
    lacking = cells.lacking(store)
    if not lacking:
        return 0
    both = encode(
        model,
        Examples(train.texts + validation.texts, np.concatenate([train.labels, validation.labels])),
        settings.max_length,
    )
    parts = list(_parts(lacking, len(both) * model.config.hidden_size * 4))
    advance = progress(len(both) * len(parts)) if progress else lambda examples, note: None
    note = f"{task.name}, {len(lacking)} plans"
    for part in parts:
        began = time.perf_counter()
        features = pooled_features(model, both, list(part.values()), progress=lambda examples: advance(examples, note))
        finite = np.array([np.isfinite(of_plan).all() for of_plan in features])
        features[~finite] = 0.0
        logits = train_heads(
            features[:, : len(train)],
            train.labels,
            features[:, len(train) :],
            task.num_labels,
            settings.seeds,
            head,
        )
        logits = np.where(finite[:, None, None], logits, np.nan)
        store.add_scores([], dict.fromkeys(part, (time.perf_counter() - began) / len(part)))
        for number, cell in enumerate(part):
            cells.finish(store, cell, logits[:, number], environment=environment)
    return len(lacking)


def _parts(cells: Mapping[int, Plan], plan_bytes: int) -> Iterator[dict[int, Plan]]:
    """Plans that begin alike together, as many as memory holds."""
    order = sorted(cells, key=lambda cell: str(cells[cell]))
    size = max(1, int(_features_bytes() / plan_bytes))
    for start in range(0, len(order), size):
        yield {cell: cells[cell] for cell in order[start : start + size]}


def _features_bytes() -> float:
    """What features may take, on the host and on the device that trains classifiers on them."""
    return FEATURES_SHARE * min(host_memory(), device_memory() or host_memory())

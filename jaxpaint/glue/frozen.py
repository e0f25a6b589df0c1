"""The paper's A.9: an encoder frozen under every plan, and a classifier trained on its pooled output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxpaint.glue.cells import register, require_pooler
from jaxpaint.glue.examples import Examples
from jaxpaint.glue.features import check_max_length, encode, pooled_features
from jaxpaint.glue.heads import HeadSettings, train_heads
from jaxpaint.glue.tasks import GlueTask
from jaxpaint.model import Model
from jaxpaint.plan import Plan
from jaxpaint.results import Store
from jaxpaint.strategies import Variant

FEATURES_BYTES = 2 << 30  # plans whose features need more are taken in parts


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
    cells = register(store, model, task, train, validation, variants, {"frozen": True, **asdict(settings)})
    lacking = cells.lacking(store)
    if not lacking:
        return 0
    both = encode(
        model.tokenizer,
        Examples(train.texts + validation.texts, np.concatenate([train.labels, validation.labels])),
        settings.max_length,
    )
    parts = list(_parts(lacking, len(both) * model.config.hidden_size * 4))
    advance = progress(len(both) * len(parts)) if progress else lambda examples, note: None
    note = f"{task.name}, {len(lacking)} plans"
    for part in parts:
        features = pooled_features(model, both, list(part.values()), progress=lambda examples: advance(examples, note))
        finite = np.isfinite(features).all(axis=(1, 2))
        logits = train_heads(
            np.where(finite[:, None, None], features[:, : len(train)], 0.0),
            train.labels,
            features[:, len(train) :],
            task.num_labels,
            settings.seeds,
            settings.head,
        )
        logits = np.where(finite[:, None, None], logits, np.nan)
        for number, cell in enumerate(part):
            cells.finish(store, cell, logits[:, number], environment=environment)
    return len(lacking)


def _parts(cells: Mapping[int, Plan], plan_bytes: int) -> Iterator[dict[int, Plan]]:
    """Plans that begin alike together, as many as `FEATURES_BYTES` holds."""
    order = sorted(cells, key=lambda cell: str(cells[cell]))
    size = max(1, FEATURES_BYTES // plan_bytes)
    for start in range(0, len(order), size):
        yield {cell: cells[cell] for cell in order[start : start + size]}

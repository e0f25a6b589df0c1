"""The paper's A.9: an encoder frozen under every plan, and a classifier trained on its pooled output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxpaint.errors import UserError
from jaxpaint.glue.examples import Examples
from jaxpaint.glue.features import encode, pooled_features
from jaxpaint.glue.heads import HeadSettings, train_heads
from jaxpaint.glue.tasks import SCORE, GlueTask, task_metrics
from jaxpaint.model import Model
from jaxpaint.plan import Plan
from jaxpaint.results import MetricRow, Store
from jaxpaint.strategies import Variant
from jaxpaint.study_cells import plan_row

VERSION = "1"  # of what a score means here: another one is another task in a store
FEATURES_BYTES = 2 << 30  # plans whose features need more are taken in parts
RESAMPLES = 100


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
    progress: Callable[[int], None] | None = None,
) -> int:
    """Scores every plan on a task's validation examples and keeps what the store lacks: how many cells it lacked.

    `progress` is called with the number of examples done under the plans at hand.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: a model without a pooler, or a store that cannot be written or knows other validation examples.
    """
    if not getattr(model.config, "has_pooler", False):
        raise UserError(f"this {model.config.model_type} checkpoint has no pooler, which GLUE's classifiers read")
    ids = store.plans([plan_row(variant) for variant in variants])
    plans = {plan_id: variant.plan for plan_id, variant in zip(ids, variants, strict=True)}
    model_id = store.model(
        fingerprint=model.manifest["fingerprint"],
        dtype=str(model.dtype),
        source=model.manifest.get("source"),
        revision=model.manifest.get("revision"),
        num_layers=model.num_layers,
    )
    task_id = store.task(
        name=task.name,
        version=VERSION,
        num_fewshot=0,
        bos="auto",
        settings={"frozen": True, "trained_on": _digest(*train.texts, train.labels.tolist()), **asdict(settings)},
        chance=None,
        main_metric=SCORE,
    )
    store.requests(
        task_id,
        [
            (number, 0, _digest(*texts, label))
            for number, (texts, label) in enumerate(zip(validation.texts, validation.labels.tolist(), strict=True))
        ],
    )
    cells = dict(zip(store.cells(model_id, task_id, list(plans)), plans.values(), strict=True))
    states = dict(zip(cells, store.states(list(cells)), strict=True))
    lacking = {
        cell: plan
        for cell, plan in cells.items()
        if states[cell].status == "running" or (states[cell].documents or 0) < len(validation)
    }
    both = encode(
        model.tokenizer,
        Examples(train.texts + validation.texts, np.concatenate([train.labels, validation.labels])),
        settings.max_length,
    )
    for part in _parts(lacking, len(both) * model.config.hidden_size * 4):
        features = pooled_features(model, both, list(part.values()), progress=progress)
        finite = np.isfinite(features).all(axis=(1, 2))
        logits = train_heads(
            np.where(finite[:, None, None], features[:, : len(train)], 0.0),
            train.labels,
            features[:, len(train) :],
            task.num_labels,
            settings.seeds,
            settings.head,
        )
        predictions = logits[..., 0] if task.is_regression else logits.argmax(axis=-1)
        for number, cell in enumerate(part):
            metrics = _metrics(task, predictions[:, number], validation.labels) if finite[number] else []
            store.finish(
                cell,
                documents=len(validation),
                status="finished" if finite[number] else "not finite",
                metrics=metrics,
                document_scores=_document_scores(task, predictions[:, number], validation.labels),
                environment=environment,
            )
    return len(lacking)


def _digest(*parts: Any) -> str:
    """Tells examples apart from others."""
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _parts(cells: Mapping[int, Plan], plan_bytes: int) -> Iterator[dict[int, Plan]]:
    """Plans that begin alike together, as many as `FEATURES_BYTES` holds."""
    order = sorted(cells, key=lambda cell: str(cells[cell]))
    size = max(1, FEATURES_BYTES // plan_bytes)
    for start in range(0, len(order), size):
        yield {cell: cells[cell] for cell in order[start : start + size]}


def _metrics(task: GlueTask, predictions: np.ndarray, labels: np.ndarray) -> list[MetricRow]:
    """Means over seeds [seeds, examples], and their standard errors over resampled examples."""
    random, seeds = np.random.default_rng(0), range(len(predictions))
    names = [*task.metrics, SCORE]

    def means(chosen: np.ndarray) -> list[float]:
        each = [task_metrics(task, predictions[seed, chosen], labels[chosen]) for seed in seeds]
        return [float(np.mean([found[name] for found in each])) for name in names]

    values = means(np.arange(len(labels)))
    drawn = [means(random.integers(len(labels), size=len(labels))) for _ in range(RESAMPLES)]
    errors = np.std(drawn, axis=0, ddof=1)
    return [
        MetricRow(name, "none", value, float(error), True)
        for name, value, error in zip(names, values, errors, strict=True)
    ]


def _document_scores(
    task: GlueTask, predictions: np.ndarray, labels: np.ndarray
) -> list[tuple[int, str, str, float | None]]:
    """Whether each example's class is right, averaged over seeds; nothing for a regression."""
    if task.is_regression:
        return []
    right = (predictions == labels).mean(axis=0)
    return [(document, "accuracy", "none", float(value)) for document, value in enumerate(right)]

"""How many images a model classifies as they are labelled, under many plans: by its own head, or by trained ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from jaxpaint.base.progress import Start, no_bar
from jaxpaint.engine.model import Model
from jaxpaint.plans.plan import Plan
from jaxpaint.results.paired import paired_difference
from jaxpaint.studies.glue import in_parts
from jaxpaint.tasks.images import LabelledImages, labels_among
from jaxpaint.training.features import pooled_features
from jaxpaint.training.heads import classifier_dropout, train_heads
from jaxpaint.training.images import Images
from jaxpaint.training.settings import TrainingSettings
from jaxpaint.training.tune import tune_encoder

Trained: TypeAlias = Literal["head", "all"]


@dataclass(frozen=True)
class Accuracy:
    """The share of images that are classified right, and less that of the first plan, on the same images.

    With standard errors over images, None of one image alone. All are None where a number was not finite.
    """

    accuracy: float | None
    stderr: float | None
    difference: float | None
    difference_stderr: float | None


def by_own_head(
    model: Model, test: LabelledImages, plans: Sequence[Plan], progress: Start = no_bar
) -> Float[np.ndarray, "plans images"]:
    """Whether each image is classified right by the checkpoint's own head: 1 or 0, NaN where numbers are not finite.

    `progress` counts images. Raises UserError for a model without such a head, a class that it does not know, or an
    image that cannot be read.
    """
    model.require_classes()
    labels = labels_among(test, model.config.labels, "the model's head")  # type: ignore[attr-defined]
    images = Images(test.files, model.image_processor, model.config)

    def right(features: np.ndarray) -> np.ndarray:
        return np.stack([_right(np.asarray(model.own_classes(each))[None], labels) for each in features])

    return _of_features(model, images, plans, right, progress)


def by_trained_heads(
    model: Model,
    train: LabelledImages,
    test: LabelledImages,
    plans: Sequence[Plan],
    settings: TrainingSettings,
    progress: Start = no_bar,
) -> Float[np.ndarray, "plans images"]:
    """The share of the settings' seeds whose classifier, trained under the plan, is right of each image of `test`.

    The model stays as it is. Otherwise as `by_own_head`; classes are those of `train`.
    """
    labels = labels_among(test, train.classes, "the classifier that is trained")
    settings = replace(
        settings, dropout=classifier_dropout(model.config) if settings.dropout is None else settings.dropout
    )
    both = Images(train.files + test.files, model.image_processor, model.config)

    def right(features: np.ndarray) -> np.ndarray:
        finite = np.isfinite(features).all(axis=(1, 2))
        features[~finite] = 0.0
        trained_on, scored = features[:, : len(train)], features[:, len(train) :]
        logits = train_heads(trained_on, train.labels, scored, len(train.classes), settings)
        logits = np.where(finite[:, None, None], logits, np.nan)
        return np.stack([_right(logits[:, plan], labels) for plan in range(len(features))])

    return _of_features(model, both, plans, right, progress)


def by_trained_models(
    model: Model,
    train: LabelledImages,
    test: LabelledImages,
    plans: Sequence[Plan],
    settings: TrainingSettings,
    progress: Start = no_bar,
) -> Float[np.ndarray, "plans images"]:
    """As `by_trained_heads`, all weights trained with the plan in place. `progress` counts images for each pass."""
    labels = labels_among(test, train.classes, "the classifier that is trained")
    settings = replace(settings, max_length=model.config.max_position_embeddings)
    images, scored = (Images(each.files, model.image_processor, model.config) for each in (train, test))
    found = np.full((len(plans), len(test)), np.nan)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    advance = progress(steps * settings.batch_size * len(settings.seeds) * len(plans))
    for number, plan in enumerate(plans):
        logits = np.full((len(settings.seeds), len(test), len(train.classes)), np.nan, np.float32)
        for run, seed in enumerate(settings.seeds):
            done = 0

            def told(step: int, loss: float) -> None:
                nonlocal done
                advance((step - done) * settings.batch_size, f"loss {loss:.3f}")
                done = step

            try:
                tuned = tune_encoder(
                    model, plan, images, train.labels, len(train.classes), seed, settings, progress=told
                )
            except FloatingPointError:
                break
            logits[run] = tuned.logits(scored)
        found[number] = _right(logits, labels)
    return found


def accuracies(right: Float[np.ndarray, "plans images"]) -> list[Accuracy]:
    """Of what the functions above give, the first plan's first."""
    first = right[0]
    return [_accuracy(each, first) for each in right]


def _accuracy(own: np.ndarray, first: np.ndarray) -> Accuracy:
    if not np.isfinite(own).all():
        return Accuracy(None, None, None, None)
    mean, size = float(own.mean()), len(own)
    stderr = float(own.std(ddof=1)) / math.sqrt(size) if size > 1 else None
    if not np.isfinite(first).all():
        return Accuracy(mean, stderr, None, None)
    difference = paired_difference(mean, float(first.mean()), own.tolist(), first.tolist())
    return Accuracy(mean, stderr, *difference)


def _right(logits: Float[np.ndarray, "seeds images labels"], labels: np.ndarray) -> Float[np.ndarray, " images"]:
    """The share of seeds that are right of each image; NaN of all where a number is not finite."""
    if not np.isfinite(logits).all():
        return np.full(len(labels), np.nan)
    return (logits.argmax(axis=-1) == labels).mean(axis=0)


def _of_features(
    model: Model,
    images: Images,
    plans: Sequence[Plan],
    right: Callable[[np.ndarray], np.ndarray],
    progress: Start,
) -> np.ndarray:
    """What `right` makes of features [plans, images, D], of as many plans at a time as memory holds."""
    parts = list(in_parts(plans, range(len(plans)), len(images) * model.config.hidden_size * 4))
    advance = progress(len(images) * len(parts))
    found: dict[int, np.ndarray] = {}
    for part in parts:
        features = pooled_features(model, images, [plans[number] for number in part], progress=advance)
        found.update(zip(part, right(features), strict=True))
    return np.stack([found[number] for number in range(len(plans))])

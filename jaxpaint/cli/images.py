"""classify images under plans of a vision transformer, or train it for that

examples:
  jaxpaint images --model google/vit-base-patch16-224 --images my-images \\
      --plan '0-9 11' --plan '0-3 {4-8} 9-11' --limit 1000
  jaxpaint images --model google/vit-base-patch16-224-in21k --images cifar10 \\
      --strategies skip,reverse,parallel --train head
  jaxpaint images --model my-vit --images my-images --plan '0-9' --train all

FOLDER has FOLDER/test/CLASS/*.png, and to train on FOLDER/train/CLASS/*.png.
Without --train the checkpoint's own head classifies, and CLASS is a name that
it has. With --train head a classifier is trained under each plan on what the
model gives as it is; with --train all the model, too: by GLUE's trainer, once
for each training seed. The full model is always scored, too, and others are
compared with it on the same images. Nothing is kept but what is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give
from jaxpaint.cli.columns import in_columns
from jaxpaint.cli.loading import model_config, model_source
from jaxpaint.cli.options import add_model_options, add_variant_options, variant_options
from jaxpaint.cli.studies import add_training_options, given_training
from jaxpaint.results.frames import shown
from jaxpaint.studies.settings import checked_options
from jaxpaint.studies.spec import numbered, variants_of
from jaxpaint.studies.values import SEVERAL_SEEDS

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.plans.strategies import Variant
    from jaxpaint.studies.images import Accuracy
    from jaxpaint.tasks.images import LabelledImages
    from jaxpaint.training.settings import TrainingSettings

OF_TRAINING = ("training_seeds", "limit_train", "learning_rate", "epochs", "batch_size")


class Scored(TypedDict):
    """`difference` is from the full model on the same images. None is what is not finite, or cannot be told."""

    plan: str
    label: str
    cost: float
    accuracy: float | None
    stderr: float | None
    difference: float | None
    difference_stderr: float | None


class Answer(TypedDict):
    """The full model first, then every plan. `trained` is what --train says, None without it."""

    images: int
    classes: int
    trained: str | None
    computed_in: str
    plans: list[Scored]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, decoder=False)
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="images, as SPLIT/CLASS/*.png")
    parser.add_argument("--split", default="test", metavar="NAME", help="the split that is scored")
    parser.add_argument("--limit", type=int, metavar="N", help="images, of all classes in turn (default: all)")
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    training.add_argument("--train", choices=("head", "all"), help="what is trained on FOLDER/train first")
    training.add_argument(
        "--training-seeds", "--training-seed", metavar="NUMBERS", help=f"{SEVERAL_SEEDS} (default: 3)"
    )
    rates = "head 3e-2, all 2e-5"
    add_training_options(training, unit="images", learning_rate=rates, epochs=3, batch_size=32, per="")


def run(options: argparse.Namespace) -> int:
    values = checked_options(variant_options(options))
    training = _training(options)
    config = model_config(options.model, options.revision)
    values["plans"] = numbered(values.get("plans", ()), options.model)
    variants = variants_of(config.num_hidden_layers, **values)
    if not config.capabilities.images:
        raise UserError(f"this needs a model that sees images (vit), and {options.model} is a {config.model_type}")

    from jaxpaint.base.progress import bar
    from jaxpaint.models.image_processor import load_image_processor
    from jaxpaint.studies.images import accuracies
    from jaxpaint.tasks.images import labels_among, read_images

    test = read_images(options.images, options.split, options.limit)
    train = None if training is None else _to_train_on(options, training)
    if train is not None:
        labels_among(test, train.classes, f"{options.images / 'train'}")
    source = model_source(options)
    load_image_processor(source.store, source.config)  # what it lacks is told before weights are read
    if train is None:
        _require_head(source.config)
        labels_among(test, source.config.labels, "the model's head")  # type: ignore[attr-defined]
    model = source.loaded
    with bar("classifying", "images") as progress:
        scores = accuracies(_right(model, train, test, variants, training, options.train, progress))
    answer: Answer = {
        "images": len(test),
        "classes": len(test.classes),
        "trained": options.train,
        "computed_in": model.computed_in,
        "plans": [
            {"plan": str(each.plan), "label": each.label, "cost": each.plan.cost, **asdict(score)}  # type: ignore[typeddict-item]
            for each, score in zip(variants, scores, strict=True)
        ],
    }
    head = f"{count(len(test), 'image')} of {len(test.classes)} classes, {model.computed_in}"
    give(options, answer, "\n".join([head, "", *_table(variants, scores), "", LESS]))
    return 0


LESS = "less the full model: on the same images, ± the standard error of that"


def _training(options: argparse.Namespace) -> TrainingSettings | None:
    """How a classifier is trained; None without --train. Raises UserError for settings of what is not trained."""
    from jaxpaint.studies import values
    from jaxpaint.training.settings import ENCODER, HEAD

    given = given_training(options, "limit")
    if options.train is None:
        if stray := [f"--{name.replace('_', '-')}" for name in OF_TRAINING if getattr(options, name) is not None]:
            raise UserError(f"{', '.join(stray)}: of training, and nothing is trained; give --train head or all")
        return None
    if options.training_seeds is not None:
        given["seeds"] = values.checked("--training-seeds", options.training_seeds, values.count_or_numbers)
    return replace(HEAD if options.train == "head" else ENCODER, **given)


def _to_train_on(options: argparse.Namespace, training: TrainingSettings) -> LabelledImages:
    from jaxpaint.base.precision import require_float_weights
    from jaxpaint.tasks.images import read_images

    if options.split == "train":
        raise UserError("--split train is what is trained on; score other images than these")
    if options.train == "all":
        require_float_weights(options.weights)
    train = read_images(options.images, "train", options.limit_train)
    if len(train.classes) < 2:
        raise UserError(f"{options.images / 'train'} has one class, {train.classes[0]}; a classifier needs two or more")
    training.require_few_rows(len(train))
    return train


def _require_head(config: Any) -> None:
    if not config.labels:
        raise UserError("this checkpoint was saved without a classifier; train one with --train head")


def _right(
    model: Model,
    train: LabelledImages | None,
    test: LabelledImages,
    variants: Sequence[Variant],
    training: TrainingSettings | None,
    what: str | None,
    progress: Any,
) -> Any:
    from jaxpaint.studies.images import by_own_head, by_trained_heads, by_trained_models

    plans = [variant.plan for variant in variants]
    if train is None or training is None:
        return by_own_head(model, test, plans, progress)
    score = by_trained_heads if what == "head" else by_trained_models
    return score(model, train, test, plans, training, progress)


def _table(variants: Sequence[Variant], scores: Sequence[Accuracy]) -> list[str]:
    rows = [["plan", "cost", "accuracy", "less the full model"]]
    for number, (variant, score) in enumerate(zip(variants, scores, strict=True)):
        row = {"value": score.accuracy, "status": "not finite", **asdict(score)}
        rows.append([str(variant.plan), f"{variant.plan.cost:g}", shown(row), shown(row, diff=True) if number else ""])
    return list(map(str.rstrip, in_columns(rows)))

"""The paper's GLUE study: an encoder fine-tuned and scored with each plan in place."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxpaint.base.words import digest
from jaxpaint.engine.model import Model, require_pooler
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.store import Store
from jaxpaint.study.glue_cells import VERSION, GlueCells, register
from jaxpaint.tasks.glue import Examples, GlueTask
from jaxpaint.training.checkpoints import TrainingCheckpoints, claimed
from jaxpaint.training.features import Encoded, check_max_length, encode
from jaxpaint.training.glue_finetune import finetune
from jaxpaint.training.glue_settings import FinetuneSettings


def run_finetuned(
    model: Model,
    store: Store,
    task: GlueTask,
    train: Examples,
    validation: Examples,
    variants: Sequence[Variant],
    settings: FinetuneSettings,
    *,
    environment: Mapping[str, Any],
    progress: Callable[[int, float | None], None] | None = None,
) -> int:
    """Fine-tunes and scores every plan that the store lacks, and keeps the scores: of how many plans.

    A cell is trained once per seed. What a killed run had done lies in a folder beside the store, named after it with
    `.checkpoints`, until the cell is finished; the next run goes on from there. Several processes may work on one
    store: each leaves alone the cells that another is at. `progress` is called with the number of examples trained on
    since the last call, each as often as there are epochs and seeds, and their latest mean loss (None for what a run
    before this one had finished).

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: a model without a pooler, a `max_length` that does not fit it, a tokenizer of another model, a store
            that cannot be written or knows other validation examples, or a checkpoint that cannot be written or read.
    """
    for variant in variants:
        model.checked_plan(variant.plan)
    cells = finetuned_cells(model, store, task, train, validation, variants, settings)
    lacking = cells.lacking(store)
    if not lacking:
        return 0
    examples = _Examples(
        encode(model, train, settings.max_length),
        train.labels,
        encode(model, validation, settings.max_length),
    )
    kept, computed = store.path.with_name(f"{store.path.name}.checkpoints"), 0
    for cell, plan in lacking.items():
        parts = (VERSION, model.manifest["fingerprint"], str(model.dtype), task.name, str(plan), asdict(settings))
        name = digest(*parts, train.texts, train.labels.tolist())
        with claimed(kept / name) as is_ours:
            if is_ours and cell in cells.lacking(store):
                began = time.perf_counter()
                logits = _logits(model, plan, task, examples, settings, kept / name, progress)
                store.add_scores([], {cell: time.perf_counter() - began})
                cells.finish(store, cell, logits, environment=environment)
                shutil.rmtree(kept / name, ignore_errors=True)
                computed += 1
    with suppress(OSError):  # none there, or still with cells of others
        kept.rmdir()
    return computed


def finetuned_cells(
    model: Model,
    store: Store,
    task: GlueTask,
    train: Examples,
    validation: Examples,
    variants: Sequence[Variant],
    settings: FinetuneSettings,
) -> GlueCells:
    """What `run_finetuned` scores, registered in the store. Errors as there."""
    require_pooler(model)
    check_max_length(model, task, settings.max_length)
    return register(store, model, task, train, validation, variants, {"frozen": False, **asdict(settings)})


class _Examples(NamedTuple):
    """What to train on, with its labels, and what to score."""

    train: Encoded
    labels: np.ndarray
    validation: Encoded


def _logits(
    model: Model,
    plan: Plan,
    task: GlueTask,
    examples: _Examples,
    settings: FinetuneSettings,
    folder: Path,
    progress: Callable[[int, float | None], None] | None,
) -> Float[np.ndarray, "seeds examples labels"]:
    """Logits of the validation examples; NaN for the seeds from the one on whose loss is not finite."""
    logits = np.full((len(settings.seeds), len(examples.validation), task.num_labels), np.nan, np.float32)
    scored = digest(*(tokens.tolist() for tokens in examples.validation.tokens))[:8]  # more of them may be asked for
    for number, seed in enumerate(settings.seeds):
        advance = _Advance(len(examples.train), settings, progress)
        file = folder / f"seed-{seed}-{scored}.npy"
        if file.exists():
            logits[number] = np.load(file)
            advance(advance.steps, None)
            continue
        try:
            tuned = finetune(
                model,
                plan,
                examples.train,
                examples.labels,
                task.num_labels,
                seed,
                settings,
                checkpoints=TrainingCheckpoints(folder / f"seed-{seed}"),
                progress=advance,
            )
        except FloatingPointError:
            break
        logits[number] = tuned.logits(examples.validation)
        _save(file, logits[number])
        shutil.rmtree(folder / f"seed-{seed}", ignore_errors=True)
    return logits


def _save(file: Path, logits: np.ndarray) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npy")
    np.save(partial, logits)
    os.replace(partial, file)


class _Advance:
    """Progress in examples out of progress in steps."""

    def __init__(
        self, examples: int, settings: FinetuneSettings, progress: Callable[[int, float | None], None] | None
    ) -> None:
        self.examples, self.batch_size, self.progress, self.done = examples, settings.batch_size, progress, 0
        self.of_epoch = -(-examples // settings.batch_size)
        self.steps = self.of_epoch * settings.epochs

    def __call__(self, steps: int, loss: float | None) -> None:
        epochs, rest = divmod(steps, self.of_epoch)
        done = epochs * self.examples + rest * self.batch_size
        if self.progress:
            self.progress(done - self.done, loss)
        self.done = done

"""A GLUE study: one encoder, many plans, many tasks, one results store; encoders fine-tuned, or left as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float

from convert import config_for, store_for
from jaxpaint.base.budgets import device_memory, host_memory
from jaxpaint.base.errors import UserError
from jaxpaint.base.files import write_whole
from jaxpaint.base.precision import require_float_weights
from jaxpaint.base.progress import Start, no_bar, say
from jaxpaint.base.words import digest
from jaxpaint.engine.model import Model, load
from jaxpaint.engine.source import Source
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.family import require_pooler, require_texts
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import Variant
from jaxpaint.results.kinds import FROZEN
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import Study, register
from jaxpaint.studies.glue_cells import VERSION, GlueRequests, finish
from jaxpaint.studies.run import tell_mended
from jaxpaint.studies.spec import numbered, require_few_plans, variants_of
from jaxpaint.studies.trained import Advance, TrainedSummary, Training, run_trained
from jaxpaint.tasks.glue import KINDS, Examples, GlueTask, glue_task, load_examples
from jaxpaint.tasks.glue_tsv import tsv_file
from jaxpaint.tasks.local_data import parse_data_option
from jaxpaint.training.checkpoints import TrainingCheckpoints, discard
from jaxpaint.training.features import Encoded, check_max_length, encode, pooled_features, require_positions
from jaxpaint.training.heads import classifier_dropout, train_heads
from jaxpaint.training.settings import ENCODER, TrainingSettings
from jaxpaint.training.tune import TunedEncoder, tune_encoder

TRAIN = "train"
# Plans whose features need more than this share of a host's memory are taken in parts. Training them takes copies.
FEATURES_SHARE = 1 / 8


@dataclass(frozen=True)
class GlueSpec:
    """The settings of `jaxpaint glue`, as its options name them and as in `jaxpaint.studies.spec.StudySpec`.

    `frozen` leaves encoders as they are, and trains classifiers alone (the paper's A.9). `data` are texts
    TASK:SPLIT=FILE (without a split, the validation examples); `limit` and `limit_train` numbers of examples.
    """

    model: str
    store: Path
    tasks: tuple[str, ...]
    training: TrainingSettings = ENCODER
    frozen: bool = False
    revision: str | None = None
    dtype: str = "auto"
    weights: str = "float"
    data: tuple[str, ...] = ()
    limit: int | None = None
    limit_train: int | None = None
    no_document_texts: bool = False
    strategies: tuple[str, ...] = ()
    starts: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = tuple(range(10))
    loops: tuple[int, ...] = (3,)
    times: tuple[int, ...] = (2, 3)
    plans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.frozen:
            require_float_weights(self.weights)
        object.__setattr__(self, "plans", numbered(self.plans, self.model))
        require_few_plans(self)

    def variants(self, num_layers: int) -> tuple[Variant, ...]:
        """As `StudySpec.variants`."""
        return variants_of(num_layers, self.strategies, self.plans, self.starts, self.seeds, self.loops, self.times)

    def files(self) -> tuple[tuple[GlueTask, Mapping[str, Path]], ...]:
        """The tasks, each with its local files by split; a split without one is read from the hub.

        Raises UserError for an unknown task, a file that is missing, or one for a task or split that is not read.
        """
        tasks = [glue_task(name) for name in self.tasks]
        given = parse_data_option(self.data, KINDS, folders=True)
        for name in given:
            if name not in self.tasks:
                raise UserError(f"--data {name}: {name} is not among --tasks {','.join(self.tasks)}")
        return tuple((task, _by_split(task, given.get(task.name, {}))) for task in tasks)


def _by_split(task: GlueTask, given: Mapping[str | None, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    known: Sequence[str] = (TRAIN, task.validation_split)
    for split, path in _of_folder(task, given).items():
        name = split or task.validation_split
        if name not in known:
            raise UserError(f"--data {task.name}:{split}: {task.name} is read from the splits {' and '.join(known)}")
        if name in found:
            raise UserError(f"--data gives the {name!r} split of {task.name} twice: {found[name]} and {path}")
        if path in found.values():
            raise UserError(
                f"--data {task.name}: {path} is given for both splits; train on other examples than it scores"
            )
        found[name] = path
    return found


def _of_folder(task: GlueTask, given: Mapping[str | None, Path]) -> Mapping[str | None, Path]:
    """A folder of GLUE's own files in place of a file is both splits."""
    folder = given.get(None)
    if folder is None or not folder.is_dir():
        if strange := next((path for path in given.values() if path.is_dir()), None):
            raise UserError(f"--data {task.name}: {strange} is a folder; give it without a split, {task.name}=FOLDER")
        return given
    files: dict[str | None, Path] = {split: tsv_file(folder, split) for split in (TRAIN, task.validation_split)}
    if lacking := [path.name for path in files.values() if not path.is_file()]:
        raise UserError(f"--data {task.name}: the folder {folder} has no {' and no '.join(lacking)}")
    return files | {split: path for split, path in given.items() if split is not None}


def run_glue(spec: GlueSpec, *, progress: Start = no_bar, converting: Progress | None = None) -> TrainedSummary:
    """Computes what the study's store lacks. It may be ended at any moment, and called again.

    `converting` is told of a first use's conversion. Raises as `GlueSpec.files`, `load_examples`, `jaxpaint.load`,
    `run_frozen`, `finetuning` and `run_trained`. What was written before stands.
    """
    started, tasks = time.perf_counter(), []
    config = config_for(spec.model, spec.revision)  # what cannot run is told before anything is loaded or converted
    variants = spec.variants(config.num_hidden_layers)
    require_texts(config, "GLUE")
    require_pooler(config, trained=not spec.frozen)
    require_positions(config, spec.training.max_length)
    files = spec.files()
    for task, local in files:
        train = load_examples(task, TRAIN, local.get(TRAIN), spec.limit_train)
        spec.training.require_few_rows(len(train))
        split = task.validation_split
        validation = load_examples(task, split, local.get(split), spec.limit)
        tasks.append(GlueRequests(task, train, validation, keeps_texts=not spec.no_document_texts))
    converted = store_for(spec.model, spec.revision, progress=converting)
    source = Source.of(converted)
    require_pooler(source.config, trained=not spec.frozen)  # which of a hub's model only the weights may say
    for task, _ in files:
        check_max_length(source, task, spec.training.max_length)
    model = load(converted, dtype=spec.dtype, weights=spec.weights)  # type: ignore[arg-type]
    with Store.open(spec.store, create=True) as store:
        tell_mended(store, say)
        common = [(store, model, requests, variants, spec.training) for requests in tasks]
        if spec.frozen:
            computed, elsewhere = sum(run_frozen(*each, progress) for each in common), 0
        else:
            computed, elsewhere = run_trained(store, [finetuning(*each) for each in common], progress)
    plans = len({variant.plan for variant in variants})
    return TrainedSummary(plans, len(tasks), computed, elsewhere, time.perf_counter() - started)


def _registered(
    store: Store, model: Model, requests: GlueRequests, variants: Sequence[Variant], settings: TrainingSettings
) -> Study:
    check_max_length(model, requests.task, settings.max_length)
    for variant in variants:
        model.checked_plan(variant.plan)
    return register(store, model, variants, [requests])


# --- Fine-tuned encoders ----------------------------------------------------------------------------------


def finetuning(
    store: Store, model: Model, requests: GlueRequests, variants: Sequence[Variant], settings: TrainingSettings
) -> Training:
    """The plans on a task, to be fine-tuned and scored once per seed by `jaxpaint.studies.trained.run_trained`.

    Raises PlanError for a layer that the model lacks, and UserError for a model without a pooler, a `max_length` that
    does not fit it, or a store that cannot be written or knows other validation examples.
    """
    require_pooler(model.config, trained=True)
    requests = replace(requests, how={FROZEN: False, **settings.of_encoder()})
    study = _registered(store, model, requests, variants, settings)
    train = requests.train

    @cache
    def encoded() -> tuple[Encoded, Encoded]:  # where nothing is missing none is needed
        return encode(model, train, settings.max_length), encode(model, requests.validation, settings.max_length)

    def run(number: int, folder: Path, told: Advance) -> None:
        began, cell = time.perf_counter(), int(study.cells[0, number])
        tune = partial(tune_encoder, model, study.plans[number], encoded()[0], train.labels, requests.task.num_labels)
        logits = _logits(tune, encoded()[1], requests.task.num_labels, settings, folder, told)
        store.add_scores([], {cell: time.perf_counter() - began})
        finish(store, cell, requests, logits)

    return Training(study, len(train), settings, partial(folder_name, model, requests, settings), run)


def folder_name(model: Model, requests: GlueRequests, settings: TrainingSettings, plan: Plan) -> str:
    """Where a plan's fine-tuning keeps what it goes on from."""
    parts = (VERSION, model.manifest["fingerprint"], str(model.dtype), requests.name, str(plan))
    return digest(*parts, settings.of_encoder(), requests.train.texts, requests.train.labels.tolist())


def _logits(
    tune: Callable[..., TunedEncoder],
    validation: Encoded,
    num_labels: int,
    settings: TrainingSettings,
    folder: Path,
    told: Advance,
) -> Float[np.ndarray, "seeds examples labels"]:
    """Logits of the validation examples; NaN for the seeds from the one on whose loss is not finite."""
    logits = np.full((len(settings.seeds), len(validation), num_labels), np.nan, np.float32)
    scored = digest(*(tokens.tolist() for tokens in validation.tokens))[:8]  # more of them may be asked for
    for number, seed in enumerate(settings.seeds):
        file, kept = folder / f"seed-{seed}-{scored}.npy", folder / f"seed-{seed}"
        if file.exists():
            logits[number] = np.load(file)
        else:
            try:
                tuned = tune(seed, settings, checkpoints=TrainingCheckpoints(kept), progress=told)
            except FloatingPointError:
                break
            logits[number] = tuned.logits(validation)
            _save(file, logits[number])
            discard(kept)
        told.seeds(number + 1)
    return logits


def _save(file: Path, logits: np.ndarray) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    np.save(content, logits)
    write_whole(content.getvalue(), file)


# --- Encoders as they are ---------------------------------------------------------------------------------


def run_frozen(
    store: Store,
    model: Model,
    requests: GlueRequests,
    variants: Sequence[Variant],
    settings: TrainingSettings,
    progress: Start = no_bar,
) -> int:
    """The paper's A.9: scores every plan by a classifier on the pooled output, where the store lacks it: how many.

    `progress` is told the number of examples, counted once for all plans whose features fit memory together. Errors as
    `finetuning`.
    """
    require_pooler(model.config)
    dropout = classifier_dropout(model.config) if settings.dropout is None else settings.dropout
    settings = replace(settings, dropout=dropout)
    requests = replace(requests, how={FROZEN: True, **settings.of_head()})
    study = _registered(store, model, requests, variants, settings)
    lacking = np.flatnonzero(study.unfinished(store)[0]).tolist()
    if not lacking:
        return 0
    task, train, validation = requests.task, requests.train, requests.validation
    labels = np.concatenate([train.labels, validation.labels])
    both = encode(model, Examples(train.texts + validation.texts, labels), settings.max_length)
    parts = list(in_parts(study.plans, lacking, len(both) * model.config.hidden_size * 4))
    advance = progress(len(both) * len(parts))
    note = f"{task.name}, {len(lacking)} plans"
    for part in parts:
        began, plans = time.perf_counter(), [study.plans[number] for number in part]
        features = pooled_features(model, both, plans, progress=lambda examples: advance(examples, note))
        finite = np.isfinite(features).all(axis=(1, 2))
        features[~finite] = 0.0
        trained_on, scored = features[:, : len(train)], features[:, len(train) :]
        logits = train_heads(trained_on, train.labels, scored, task.num_labels, settings)
        logits = np.where(finite[:, None, None], logits, np.nan)
        cells = study.cells[0, part].tolist()
        store.add_scores([], dict.fromkeys(cells, (time.perf_counter() - began) / len(part)))
        for number, cell in enumerate(cells):
            finish(store, cell, requests, logits[:, number])
    return len(lacking)


def in_parts(plans: Sequence[Plan], chosen: Sequence[int], plan_bytes: int) -> Iterator[list[int]]:
    """Of chosen plans those that begin alike together, as many as memory holds of features, on host and device."""
    order = sorted(chosen, key=lambda number: str(plans[number]))
    size = max(1, int(FEATURES_SHARE * min(host_memory(), device_memory() or host_memory()) / plan_bytes))
    for start in range(0, len(order), size):
        yield order[start : start + size]

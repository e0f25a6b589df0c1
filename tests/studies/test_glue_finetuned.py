"""A fine-tuned GLUE study on a tiny BERT: what lands in the store, what is not done twice, what outlives a kill."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.plans.strategies import CUSTOM, Variant
from jaxpaint.results.store import Store
from jaxpaint.studies import glue
from jaxpaint.studies.glue import finetuning
from jaxpaint.studies.glue_cells import GlueRequests
from jaxpaint.studies.trained import run_trained
from jaxpaint.tasks.glue import Examples, glue_task
from jaxpaint.training.settings import ENCODER, TrainingSettings
from tests.helpers.decoders import make_tiny
from tests.helpers.tiny_glue import pairs, tiny_store

SETTINGS = dataclasses.replace(ENCODER, learning_rate=3e-3, epochs=4, batch_size=16, max_length=20, seeds=(0, 1))
TRAIN, VALIDATION = pairs(0, 160), pairs(1, 40)
WORK = len(TRAIN) * SETTINGS.epochs * len(SETTINGS.seeds)  # of a cell, in examples
VARIANTS = [Variant(CUSTOM, jp.Plan.parse(text), 5) for text in ("0-4", "0 3-1 4")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jp.Model:
    return jp.load(tiny_store(tmp_path_factory.mktemp("bert")), dtype="float32")


def _run(
    model: jp.Model,
    path: Path,
    *,
    task: str = "mrpc",
    train: Examples = TRAIN,
    validation: Examples = VALIDATION,
    variants: list[Variant] = VARIANTS,
    settings: TrainingSettings = SETTINGS,
    progress: Any = lambda count, note: None,
) -> int:
    """How many plans were trained; `progress` is called with numbers of examples and notes."""
    requests = GlueRequests(glue_task(task), train, validation)
    with Store.open(path, create=True) as store:
        training = finetuning(store, model, requests, variants, settings)
        return run_trained(store, [training], lambda total: progress)[0]


def _rows(path: Path) -> list[tuple]:
    with Store.open(path, create=False) as store:
        return store.connection.execute(
            "SELECT plan, metric, value, stderr FROM results WHERE value IS NOT NULL ORDER BY 1, 2"
        ).fetchall()


@pytest.fixture(scope="module")
def undisturbed(model: jp.Model, tmp_path_factory) -> Path:
    """The store of a run of two plans, which has left nothing beside it."""
    folder, examples = tmp_path_factory.mktemp("study"), []
    assert _run(model, folder / "glue.sqlite", progress=lambda count, note: examples.append(count)) == 2
    assert sum(examples) == 2 * WORK
    assert [file.name for file in folder.iterdir()] == ["glue.sqlite"]
    return folder / "glue.sqlite"


@pytest.mark.slow
def test_scores_are_kept_and_not_computed_again(model: jp.Model, undisturbed: Path) -> None:
    found = {(plan, metric): (value, stderr) for plan, metric, value, stderr in _rows(undisturbed)}
    for plan in ("0-4", "0 3-1 4"):
        f1, accuracy, score = (found[plan, name][0] for name in ("f1", "accuracy", "score"))
        assert score == pytest.approx((f1 + accuracy) / 2)
        assert 0 <= found[plan, "score"][1] < 0.2
    assert found["0-4", "accuracy"][0] > 0.9, "words that can be told apart"
    assert found["0-4", "accuracy"][0] > found["0-4", "majority_score"][0]
    assert _run(model, undisturbed, progress=lambda *_: pytest.fail("nothing is left to do")) == 0


@pytest.mark.slow
def test_other_settings_are_another_task(model: jp.Model, undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "glue.sqlite"
    copy.write_bytes(undisturbed.read_bytes())
    with pytest.raises(_Killed):
        _run(model, copy, settings=dataclasses.replace(SETTINGS, learning_rate=2e-3), progress=_stop_after(1))
    assert _rows(copy) == _rows(undisturbed)


class _Killed(Exception):
    pass


def _stop_after(examples: int) -> Any:
    done = 0

    def progress(count: int, note: str) -> None:
        nonlocal done
        done += count
        if done >= examples:
            raise _Killed

    return progress


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    model: jp.Model, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 5)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    store, again = tmp_path / "glue.sqlite", []
    for stop in (WORK // 2 - 10, WORK // 2 + 60, WORK):
        with pytest.raises(_Killed):
            _run(model, store, progress=_stop_after(stop))
    assert (tmp_path / "glue.sqlite.checkpoints").is_dir()
    assert _run(model, store, progress=lambda count, note: again.append((count, note))) == 2
    assert again[0] == (WORK // 2, "mrpc"), "the first seed was done"
    assert sum(count for count, _ in again) == 2 * WORK
    assert _rows(store) == _rows(undisturbed)
    assert [file.name for file in tmp_path.iterdir()] == ["glue.sqlite"]


@pytest.mark.slow
def test_a_killed_run_of_other_settings_is_not_gone_on_with(
    model: jp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 1)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    one_epoch = dataclasses.replace(SETTINGS, epochs=1, seeds=(0,))

    def run(store: Path, max_length: int, progress: Any) -> None:
        settings = dataclasses.replace(one_epoch, max_length=max_length)
        _run(model, store, train=pairs(0, 32), variants=VARIANTS[:1], settings=settings, progress=progress)

    def losses(store: Path) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        run(store, 10, lambda *told: found.append(told))
        return found

    with pytest.raises(_Killed):
        run(tmp_path / "one.sqlite", 20, _stop_after(32))
    assert losses(tmp_path / "one.sqlite") == losses(tmp_path / "alone.sqlite")
    assert _rows(tmp_path / "one.sqlite") == _rows(tmp_path / "alone.sqlite")


@pytest.mark.slow
def test_a_loss_that_explodes_ends_its_cell_alone(
    model: jp.Model, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploding = dataclasses.replace(SETTINGS, learning_rate=1e30)
    ours = glue.tune_encoder

    def tune_encoder(*arguments: Any, **named: Any) -> Any:
        *before, settings = arguments
        return ours(*before, exploding if str(arguments[1]) == "0-4" else settings, **named)

    monkeypatch.setattr(glue, "tune_encoder", tune_encoder)
    assert _run(model, tmp_path / "glue.sqlite") == 2
    assert [row for row in _rows(undisturbed) if row[0] == "0 3-1 4"] == _rows(tmp_path / "glue.sqlite")
    with Store.open(tmp_path / "glue.sqlite", create=False) as store:
        assert {state.status for state in store.states([1, 2])} == {"finished", "not finite"}
    assert _run(model, tmp_path / "glue.sqlite") == 0


@pytest.mark.slow
def test_another_process_leaves_a_cell_alone_that_is_worked_at(model: jp.Model, tmp_path: Path) -> None:
    path, calls = tmp_path / "glue.sqlite", []
    short = {"settings": dataclasses.replace(SETTINGS, seeds=(0,), epochs=1), "variants": VARIANTS[:1]}

    def at_one_cell(count: int, note: str) -> None:
        assert note == "mrpc", "no loss: of the cell it is told alone that another process sees to it"

    def progress(count: int, note: str) -> None:
        calls.append(_run(model, path, **short, progress=at_one_cell))

    assert _run(model, path, **short, progress=progress) == 1
    assert calls == [0], "it computed nothing"


@pytest.mark.slow
def test_a_regression(model: jp.Model, tmp_path: Path) -> None:
    train, validation = (Examples(each.texts, each.labels.astype(np.float32)) for each in (TRAIN, VALIDATION))
    one_seed = dataclasses.replace(SETTINGS, seeds=(0,))
    path = tmp_path / "glue.sqlite"
    _run(
        model,
        path,
        **{"task": "stsb", "train": train, "validation": validation},
        **{"settings": one_seed, "variants": VARIANTS[:1]},
    )
    assert {metric: value for _, metric, value, _ in _rows(path)}["pearson"] > 0.7


def test_refusals(model: jp.Model, tmp_path: Path) -> None:
    path = tmp_path / "glue.sqlite"
    with pytest.raises(UserError, match="no pooler"):
        _run(make_tiny("grouped-query").model, path)
    with pytest.raises(UserError, match="max_length is 128, more than the model's 40 positions"):
        _run(model, path, settings=dataclasses.replace(SETTINGS, max_length=128))
    with pytest.raises(UserError, match="5 layers"):
        _run(model, path, variants=[Variant(CUSTOM, jp.Plan.parse("0-5"), 5)])
    for change in ({"epochs": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"dropout": 1.0}, {"weight_decay": -1.0}):
        with pytest.raises(UserError, match=next(iter(change))):
            dataclasses.replace(ENCODER, **change)


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import tests.studies.test_glue_finetuned as study
import jaxpaint as jp
from jaxpaint.training import trainer as training

training.WINDOW, training.CHECKPOINT_SECONDS = 5, 0.0
model = jp.load(sys.argv[1], dtype="float32")
study._run(model, Path(sys.argv[2]), progress=lambda count, note: print(count, flush=True))
"""


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on(model: jp.Model, undisturbed: Path, tmp_path: Path) -> None:
    paths = (model.store, tmp_path / "glue.sqlite", Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    counts = [int(first.stdout.readline()) for _ in range(10)]  # in the first cell's second seed
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert sum(counts) < WORK
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) == WORK // 2
    assert sum(map(int, done.stdout.split())) == 2 * WORK
    assert _rows(tmp_path / "glue.sqlite") == _rows(undisturbed)

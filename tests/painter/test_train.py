"""Training painter-16, at a small size: the loss falls, a folder that transformers loads comes out of it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

import jaxpaint as jp
from jaxpaint.painter import card, train
from jaxpaint.painter.batches import batches
from jaxpaint.painter.language import texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Trained for as long as tells a loss that falls from one that does not."""
    folder = tmp_path_factory.mktemp("painter") / "small"
    sizes = ("--layers", "2", "--hidden-size", "32", "--heads", "2", "--rows", "8", "--steps", "40")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--output", str(folder), *sizes])
        train.main()
    return folder


@pytest.mark.slow
def test_the_loss_falls_and_is_kept(folder, nothing_of_the_users) -> None:
    with (folder / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30", "40"]
    losses = [float(row["loss"]) for row in rows]
    assert np.log(279) - 1 < losses[0] < np.log(279) + 0.5, "it begins knowing nothing"
    assert losses[-1] < losses[0] - 1
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--steps 1e3", "argument --steps: '1e3' is not a whole number"),
        ("--rows 1000000000000", "argument --rows: 1000000000000 is out of range"),
        ("--learning-rate nan", "argument --learning-rate: nan is not a finite number"),
        ("--adam-learning-rate -1", "--adam-learning-rate is -1.0; expected a number above 0"),
        ("--steps 0", "--steps is 0; expected 1 to 10000000"),
        ("--layers 2000000000", "--layers is 2000000000; expected 1 to 1000"),
        ("--hidden-size 2000000000", "--hidden-size is 2000000000; expected 1 to 8192"),
        ("--hidden-size 36", "--hidden-size is 36; expected a multiple of 8, two numbers for each of 4 heads"),
        ("--seed -1", "--seed is -1; expected 0 to 2^32 - 1"),
        (f"--output {__file__}", "is not a folder"),
    ],
)
def test_what_cannot_be_trained_with_is_told(capsys, monkeypatch, tmp_path, options, expected) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path / "made"), *options.split()])
    assert expected in told(capsys, train.main)
    assert not list(tmp_path.iterdir())


def test_a_card_of_nothing(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["card", str(tmp_path)])
    assert "training.json cannot be read: No such file" in told(capsys, card.main)


def told(capsys: pytest.CaptureFixture[str], command: Callable[[], None]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        command()
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (2, "", 1)
    return err


@pytest.mark.slow
def test_transformers_computes_the_same_logits(folder, nothing_of_the_users) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(folder), jp.load(folder, dtype="float32")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for text in islice(texts(1), 3):
        tokens = words(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = theirs(tokens).logits.numpy()
        np.testing.assert_allclose(model.logits(tokens.numpy()), expected, atol=1e-4)


@pytest.mark.slow
def test_the_loss_is_that_of_the_texts_one_by_one(folder, nothing_of_the_users) -> None:
    """Texts side by side in a row do not see each other, and every token but a text's first is predicted once."""
    settings = train.Settings(layers=2, hidden_size=32, heads=2)
    model, batch = jp.load(folder, dtype="float32"), next(batches(5, rows=2, length=128))
    from flax import nnx

    loss = train.NextTokenLoss(model.graphdef, settings.layers, unroll=True)
    found = float(loss(nnx.to_pure_dict(model.state), jax.device_put(batch)))
    losses = []
    for row, until in zip(batch.tokens, batch.visible_until, strict=True):
        start = 0
        while start < 128 and until[start] > start + 1:
            text = row[start : until[start]]
            logits = torch.tensor(np.array(model.logits(text[None])[0, :-1]))
            losses += torch.nn.functional.cross_entropy(
                logits, torch.tensor(text[1:]).long(), reduction="none"
            ).tolist()
            start = until[start]
    assert found == pytest.approx(np.mean(losses), abs=1e-4)

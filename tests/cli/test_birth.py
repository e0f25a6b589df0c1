"""`jaxpaint birth`: what it writes and says, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import json

import pytest

from jaxpaint.birth import train as training
from jaxpaint.birth.layers import NEVER

SMALL = (*("birth", "--width", 16, "--length", 16, "--batch", 4, "--steps", 20, "--plan", "0 1"), "--plan", "{0 1}*2")
FIGURES = ("learning", "memories", "behaviour", "frozen", "texts", "plans", "attention", "steps")
ONE = (*SMALL, "--seeds", 1, "--arms", "none")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(file) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.slow
def test_a_whole_run(run, here) -> None:
    status, out, err = run(*SMALL, "--seeds", "0,3", "--freeze", "W_O2=10", "--freeze", "W_K2=never", "--output", "out")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-1] == "report: out/birth.md"
    page = (here / "out" / "birth.md").read_text()
    for claim in ("W_K1 is the last", "While W_O2 is frozen", "One layer", "Fewer triggers", "Rare", "{0 1}*2 gains"):
        assert claim in " ".join(out.split())
        assert claim in page
    figures = {file.name for file in (here / "out").glob("*.png")}
    assert figures == {f"figure-{name}.png" for name in FIGURES}
    assert [name for name in figures if f"]({name})" not in page] == []

    measured, told = rows(here / "out" / "measured.csv"), json.loads((here / "out" / "birth.json").read_text())
    names = ("unfrozen", "W_O2 frozen to 10", "W_K2 frozen", "random triggers", "under {0 1}*2")
    assert [name for name in names if name not in {row["arm"] for row in measured}] == []
    own = [row for row in measured if row["arm"] == "unfrozen" and row["seed"] == "3"]
    assert [row["step"] for row in own] == ["0", "10", "20"]
    assert all(0 <= float(row[f"accuracy under {plan}"]) <= 1 for row in own for plan in ("0 1", "{0 1}*2"))
    steps = rows(here / "out" / "steps.csv")
    assert len([row for row in steps if row["arm"] == "unfrozen"]) == 40
    assert told["settings"]["freezes"] == {"W_O2": 10, "W_K2": NEVER}
    assert {finding["verdict"] for finding in told["findings"]} <= {
        "holds",
        "in part",
        "does not hold",
        "cannot be told",
    }
    assert not (here / "out.unfinished").exists()


@pytest.mark.slow
def test_the_least_run(run, here) -> None:
    status, out, err = run(*ONE)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "report: birth-report/birth.md"
    page = (here / "birth-report" / "birth.md").read_text()
    assert "![what each matrix stores, step by step](figure-memories.png)" in page
    assert [entry.name for entry in here.iterdir()] == ["birth-report"]


@pytest.mark.slow
def test_a_killed_run_goes_on(run, here, monkeypatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    measured, calls = training._measured, []

    def killed(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(training, "_measured", killed)
    assert run(*ONE, "--output", "out")[0] == 130
    assert not (here / "out").exists()
    assert run(*ONE, "--output", "out")[0] == 0
    assert len(calls) == 4  # one of three measurements was left to do
    assert run(*ONE, "--output", "other")[0] == 0
    for name in ("steps.csv", "measured.csv"):
        assert (here / "out" / name).read_bytes() == (here / "other" / name).read_bytes()


@pytest.mark.slow
def test_loss_on_all_positions_with_a_feed_forward(run, here) -> None:
    status, out, _ = run(
        *ONE, "--loss", "all", "--feed-forward", "linear", "--triggers", "random", "--start", "orthogonal"
    )
    assert status == 0
    assert "Global bigrams come first" in out
    assert "bigram_distance" in (here / "birth-report" / "measured.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--width", 0), "--width is 0; expected 2 to 4096"),
        (("--steps", 15), "--steps is 15; expected a multiple of 10"),
        (("--learning-rate", 0), "--learning-rate is 0.0; expected a number above 0"),
        (("--arms", "freeze"), "--arms freeze is none of freezes, one-layer, texts, plans"),
        (("--freeze", "W_Q=3"), "--freeze W_Q=3; expected one of W_K1, W_K2, W_O2, W_F and a step"),
        (("--freeze", "W_F=3", "--arms", "freezes"), "W_F cannot be frozen"),
        (("--plan", "0 2"), "the plan uses layer 2, but the model has 2 layers"),
        (("--trigger-count", 66), "66 triggers after the 0 most frequent tokens; there are 65 tokens"),
        (("--seeds", "a"), "'a' is not a number or a range"),
        (("--ideal-gamma", "1,x"), "'x' is not a number"),
        (("--positions", "rotary", "--width", 17), "rotary positions need an even width, not 17"),
        (("--weight-decay", -1), "--weight-decay is -1.0; expected a number, 0 or above"),
        (("--layers", 3), "--layers is not an option of the small model"),
        (
            ("--model", "general", "--arms", "one-layer", "--ideal-b", 3),
            "--ideal-b is not an option of the general model",
        ),
        (("--model", "general", "--heads", 3), "--heads is 3; expected a divisor of the width, 16"),
    ],
)
def test_mistakes(refused, here, options, expected) -> None:
    refused(*ONE, *options, expected=(expected,))
    assert list(here.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(refused, here) -> None:
    (here / "notes").mkdir()
    (here / "notes" / "mine.txt").write_text("kept")
    refused(*ONE, "--output", "notes", expected=("notes exists and is not something this would have written",))
    assert (here / "notes" / "mine.txt").read_text() == "kept"


@pytest.mark.slow
def test_the_general_model(run, here) -> None:
    size = ("--width", 16, "--length", 16, "--batch", 4, "--steps", 20, "--layers", 3, "--heads", 2)
    status, out, err = run("birth", "--model", "general", *size, "--seeds", 1, "--plan", "0-2", "--output", "out")
    assert (status, err) == (0, "")
    assert "One layer cannot do it, three can: " in out
    assert "W_O2" not in out
    page = (here / "out" / "birth.md").read_text()
    assert "the general model, 3 layers of 2 heads, width 16" in page
    figures = {file.name for file in (here / "out").glob("*.png")}
    assert figures == {f"figure-{name}.png" for name in ("learning", "plans", "layers")}
    assert json.loads((here / "out" / "birth.json").read_text())["written down"] is None

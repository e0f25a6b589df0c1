"""jaxpaint study with strategies that measure the model first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpaint.base.bundled import CALIBRATION
from jaxpaint.painter import items
from jaxpaint.studies import proposing
from tests.helpers.cli_fixtures import NOUNS
from tests.helpers.study_store import rows
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

ALL = "drop-by-influence,drop-span-by-angle,drop-by-perplexity,drop-settled,parallel-by-similarity"
VARIANTS = "SELECT v.strategy, v.label, v.affected, p.text FROM variants AS v JOIN plans AS p ON p.id = v.plan"


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"The {noun} is by the {NOUNS[n - 1]}.\n\n" for n, noun in enumerate(NOUNS)))
    return file


@pytest.fixture
def study(run, store, tmp_path, texts):
    """The command on the tiny model of five layers, and the store's path."""
    task = make_task(tmp_path, "tiny_word")

    def command(*more: object, strategies: str = "drop-by-influence", file: str = "study.sqlite"):
        own = ("--tasks", task, "--limit", 4, "--dtype", "float32", "--store", tmp_path / file)
        return run("study", "--model", store, "--strategies", strategies, *own, *more)

    return command


@pytest.mark.slow
def test_a_study_measures_once_and_keeps_its_plans(study, texts, tmp_path, monkeypatch) -> None:
    options = ("--counts", "1,3", "--calibration", texts)
    status, out, err = study(*options)
    assert (status, err.count("measuring block_influence of the model on 8 texts, ")) == (0, 1)
    file = tmp_path / "study.sqlite"
    (kept,) = rows(file, "SELECT name, settings, value FROM analyses")
    influence = json.loads(kept["value"])
    order = sorted(range(5), key=lambda layer: influence[layer])
    found = {row["affected"]: row for row in rows(file, VARIANTS) if row["strategy"] == "drop-by-influence"}
    for count in (1, 3):
        left = " ".join(map(str, sorted(order[count:])))
        assert _spelt(found[count]["text"]) == left
        assert found[count]["label"] == f"drop-by-influence count={count}: {found[count]['text']}"
    assert "3 plans, 3 of 3 results finished" in out

    again, measure = [], proposing.measure
    monkeypatch.setattr(proposing, "measure", lambda *a, **how: again.append(a) or measure(*a, **how))
    status, out, err = study(*options)
    assert (status, err) == (0, "")
    assert "there was nothing to compute" in out
    assert study("--counts", "1,2,3", "--calibration", texts)[0] == 0  # another count takes the same measurement

    (tmp_path / "others.txt").write_text("Another text.\n")
    assert not again
    assert study("--counts", "1", "--calibration", tmp_path / "others.txt")[0] == 0
    assert len(again) == 1


def _spelt(plan: str) -> str:
    from jaxpaint.plans.plan import Plan

    return " ".join(map(str, Plan.parse(plan).sequence()))


@pytest.mark.slow
def test_every_strategy_and_what_comes_of_it(study, run, texts, tmp_path) -> None:
    status, _, err = study("--counts", "1,2", "--calibration", texts, strategies=f"skip,{ALL}")
    assert status == 0, err
    file = tmp_path / "study.sqlite"
    labels = {row["label"].partition(":")[0] for row in rows(file, VARIANTS)}
    assert labels >= {f"{name} count={count}" for name in ALL.split(",") for count in (1, 2)}
    assert "drop-settled count=2: " in run("results", file, "--format", "csv")[1]
    assert run("report", file, "-o", tmp_path / "report")[0] == 0


@pytest.mark.slow
def test_shards_propose_the_same_plans(study, texts, tmp_path) -> None:
    options = ("--counts", "1,2,3", "--calibration", texts)
    assert study(*options, file="whole.sqlite")[0] == 0
    cells = "SELECT p.text FROM cells AS c JOIN plans AS p ON p.id = c.plan"
    parts = []
    for part in ("1", "2"):
        assert study(*options, "--shard", f"{part}/2", file=f"part-{part}.sqlite")[0] == 0
        parts += [row["text"] for row in rows(tmp_path / f"part-{part}.sqlite", cells)]
    assert sorted(parts) == sorted(row["text"] for row in rows(tmp_path / "whole.sqlite", cells))


@pytest.mark.slow
def test_a_dry_run_says_that_plans_are_not_known(study, texts) -> None:
    options = ("--counts", "2", "--calibration", texts)
    status, out, err = study(*options, "--dry-run")
    assert (status, err) == (0, "")
    assert "once block_influence of 8 texts is measured" in out
    assert study(*options)[0] == 0
    status, out, err = study(*options, "--dry-run")
    assert status == 0
    assert "measured" not in out
    assert "has finished 2 of 2 plans" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "strategy drop-by-influence needs the number of layers that it changes; give --counts 2,4"),
        (("--counts", "2"), "measures the model on texts, and none are given; give --calibration FILE"),
        (("--counts", "5", "--calibration", "texts.txt"), "count 5 is out of range: 1-4 for a model of 5 layers"),
        (("--counts", "2", "--calibration", "none.txt"), "cannot read none.txt"),
        (("--counts", "2", "--calibration", "empty.txt"), "empty.txt has no text to measure the model on"),
        (("--counts", "2", "--calibration", "bad.jsonl"), "bad.jsonl, line 2 has no text; give a string, or an object"),
        (("--counts", "2", "--calibration", "torn.jsonl"), "torn.jsonl, line 1 is not JSON"),
    ],
)
def test_mistakes_are_told_first(study, options, said, tmp_path, monkeypatch, texts) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"words": "bad"}\n')
    (tmp_path / "torn.jsonl").write_text('{"text": \n')
    status, out, err = study(*options)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "study.sqlite").exists()


def test_options_without_such_a_strategy_are_refused(study, texts) -> None:
    for options in (("--counts", "2"), ("--calibration", texts)):
        status, _, err = study(*options, strategies="skip")
        assert status == 2
        assert f"{options[0]} is of strategy drop-by-influence or " in err


def test_other_commands_say_whose_strategies_they_are(run, store, tmp_path) -> None:
    status, _, err = run("logits", "--model", store, "--text", "a", "--strategy", "drop-by-influence")
    assert (status, "takes measurements of a model" in err) == (2, True)
    task = make_task(tmp_path, "tiny_word")
    more = ("--strategies", "drop-by-influence", "--store", tmp_path / "tuned.sqlite")
    status, _, err = run("finetune", "--model", store, "--tasks", task, *more)
    assert status == 2
    assert "strategy drop-by-influence takes measurements of a model, which jaxpaint study makes" in err


def test_json_lines_and_plain_ones_are_the_same_texts(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One text."}\n"Another."\n')
    (tmp_path / "a.txt").write_text("One text.\n\nAnother.\n")
    found = [proposing.calibration_texts(tmp_path / name) for name in ("a.jsonl", "a.txt")]
    assert found == [("One text.", "Another.")] * 2


def test_the_bundled_texts_are_no_items_of_a_task() -> None:
    texts = proposing.calibration_texts(None)
    assert list(texts) == items.calibration()
    asked = {item.get("context") or item.get("question") for kind in items.KINDS for item in items.items(kind)} - {None}
    assert not [text for text in texts if any(text.startswith(str(item)) for item in asked)]
    assert CALIBRATION.read_text().count("\n") == 100

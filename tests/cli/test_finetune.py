"""jaxpaint finetune: frozen and fine-tuned results side by side, what is not done twice, and mistakes in a line."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from jaxpaint.report.data import read_store
from jaxpaint.report.finetuned import split
from tests.helpers.cli_fixtures import NOUNS

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TASK = "arc_challenge"


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    """Training documents whose answer is always the last choice, which is the longest."""
    file = tmp_path_factory.mktemp("train") / "train.jsonl"
    rows = [
        {
            "id": str(n),
            "question": f"What is thing {n}?",
            "choices": {"text": [*NOUNS[:3], NOUNS[n % 8] * 2], "label": list("ABCD")},
            "answerKey": "D",
        }
        for n in range(20)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def command(store, files, train) -> list[Any]:
    data = ["--data", f"{TASK}:train={train}", "--data", f"{TASK}={files / TASK}.jsonl"]
    plans = ["--strategies", "skip", "--starts", "1"]
    return ["finetune", "--model", store, "--dtype", "float32", "--tasks", TASK, *data, *plans, "--batch-size", 8]


def rows(path: Path) -> dict[tuple[str, bool], tuple[str, float | None]]:
    """Status and acc_norm by plan and whether it was fine-tuned."""
    query = (
        "SELECT p.text, json_extract(t.settings, '$.finetuned') IS NOT NULL, c.status, m.value FROM cells c"
        " JOIN plans p ON p.id = c.plan JOIN tasks t ON t.id = c.task"
        " LEFT JOIN metrics m ON m.cell = c.id AND m.metric = 'acc_norm'"
    )
    with closing(sqlite3.connect(path)) as connection:
        return {(plan, bool(tuned)): (status, value) for plan, tuned, status, value in connection.execute(query)}


def scores(path: Path) -> list[tuple]:
    query = "SELECT plan, settings, document, number, loglikelihood FROM responses ORDER BY 1, 2, 3, 4"
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_frozen_and_fine_tuned_lie_side_by_side_and_are_drawn(run, command, files, store, tmp_path) -> None:
    file, out = tmp_path / "s.sqlite", tmp_path / "report"
    data = ("--data", f"{TASK}={files / TASK}.jsonl")
    study = ("study", "--model", store, "--dtype", "float32", "--tasks", TASK, *data, "--strategies", "skip")
    assert run(*study, "--store", file)[0] == 0
    before = scores(file)
    tuned = [*command, "--store", file, "--learning-rate", "0.01"]
    status, text, _ = run(*tuned, "--report", out)
    assert status == 0
    assert text.startswith(f"{file}: 1 plan fine-tuned on 1 task; 1 result in ")
    assert [row for row in scores(file) if "finetuned" not in row[1]] == before, "a study's results are used"
    found = rows(file)
    assert {key for key, (status, _) in found.items() if status == "finished"} == {
        *(("0-4", False), ("0", False), ("0 1 4", False), ("0 1 4", True))
    }
    changed = [(row[0], *row[2:]) for row in scores(file) if "finetuned" in row[1]]
    frozen = {(row[0], *row[2:4]): row[4] for row in before}
    assert max(abs(value - frozen[plan, document, number]) for plan, document, number, value in changed) > 0.1

    (one,) = split(read_store(file))[1]
    assert (one.task.name, one.frozen.task.name) == (f"{TASK}, fine-tuned", TASK)
    assert one.curve("skip", one.frozen).affected.tolist() == [2, 4]
    assert one.curve("skip", one.tuned).affected.tolist() == [2]
    assert one.curve("skip", one.tuned).value.tolist() == [found["0 1 4", True][1]]
    assert [path.name for path in (out / "figures").glob("*13*.pdf")] == [f"figure-13-fine-tuned-skip-{TASK}.pdf"]
    with (out / "tables" / "fine-tuned.csv").open() as opened:
        (row,) = csv.DictReader(opened)
    assert float(row["as it is"]) == found["0 1 4", False][1]
    assert float(row["fine-tuned"]) == found["0 1 4", True][1]
    page = (out / "report.html").read_text()
    assert f"(paper: Figure 13). Skip, then fine-tuning on {TASK}" in page
    assert "learning rate 0.01, batches of 8" in page
    with (out / "tables" / "scores.csv").open() as opened:
        assert {row["task"] for row in csv.DictReader(opened)} == {TASK}, "not among the frozen study's scores"
    assert "fine-tuned" in run("results", file)[1]

    again = run(*tuned)
    assert again[0] == 0
    assert again[1] == f"{file}: 1 plan fine-tuned on 1 task; there was nothing to compute\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("s.sqlite")] == ["s.sqlite"]


@pytest.mark.slow
def test_other_settings_are_other_results_and_the_full_model_is_trained_where_it_is_named(
    run, command, tmp_path
) -> None:
    file = tmp_path / "s.sqlite"
    assert run(*command, "--store", file, "--limit-train", 8)[0] == 0
    command[command.index("skip")] = "full,skip"
    status, text, _ = run(*command, "--store", file, "--limit-train", 16, "--limit", 4)
    assert (status, text.split(" in ")[0]) == (0, f"{file}: 2 plans fine-tuned on 1 task; 2 results")
    _, tuned = split(read_store(file))
    assert [each.title.split(" #")[0] for each in tuned] == [TASK, TASK]
    assert {int(each.tuned.documents.max()) for each in tuned} == {4, 8}
    assert sorted(len(each.variants()) for each in tuned) == [1, 2]
    assert run("report", file, "-o", tmp_path / "report")[0] == 0
    assert len(list((tmp_path / "report" / "figures").glob("figure-13-*.pdf"))) == 2


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The steps that are told; at the second, after a checkpoint of the first, the command is interrupted."""
    from jaxpaint.studies.trained import Advance

    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 1)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []
    count = Advance.__call__

    def interrupted(self, done: int, loss: float) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise KeyboardInterrupt
        count(self, done, loss)

    monkeypatch.setattr(Advance, "__call__", interrupted)
    return steps


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(run, command, tmp_path, steps) -> None:
    file = tmp_path / "s.sqlite"
    status, _, err = run(*command, "--store", file)
    assert status == 130
    assert f"interrupted; {file} keeps what is done, and the same command continues" in err
    assert (tmp_path / "s.sqlite.checkpoints").is_dir()
    assert run(*command, "--store", file)[0] == 0
    assert steps == [1, 2, 2, 3], "the first step is not done again"
    assert not (tmp_path / "s.sqlite.checkpoints").exists()
    assert run(*command, "--store", tmp_path / "other.sqlite")[0] == 0
    assert scores(file) == scores(tmp_path / "other.sqlite")


@pytest.mark.parametrize(
    ("option", "interrupted", "other"), [("--bos", "on", "off"), ("--learning-rate", "0.01", "0.02")]
)
@pytest.mark.slow
def test_an_interrupted_run_of_other_settings_is_not_gone_on_with(
    run, command, tmp_path, steps, option, interrupted, other
) -> None:
    file, alone = tmp_path / "s.sqlite", tmp_path / "alone.sqlite"
    command += ["--limit", 2, option]
    assert run(*command, interrupted, "--store", file)[0] == 130
    assert run(*command, other, "--store", file)[0] == 0
    assert run(*command, other, "--store", alone)[0] == 0
    assert set(scores(alone)) <= set(scores(file))


@pytest.mark.slow
def test_a_loss_that_explodes_is_recorded_and_drawn_as_missing(run, command, tmp_path) -> None:
    file, out = tmp_path / "s.sqlite", tmp_path / "report"
    exploding = [*command, "--store", file, "--learning-rate", "1e30", "--epochs", "2"]
    assert run(*exploding, "--report", out)[0] == 0
    assert rows(file)["0 1 4", True] == ("not finite", None)
    assert "nothing to compute" in run(*exploding)[1]
    assert len(list((out / "figures").glob("figure-13-*.pdf"))) == 1


def test_no_report_while_another_process_trains(run, command, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jaxpaint.studies.trained.claimed", lambda folder: nullcontext(False))
    file, out = tmp_path / "s.sqlite", tmp_path / "report"
    status, text, _ = run(*command, "--store", file, "--report", out)
    first, second = text.splitlines()
    assert (status, first.split("; ")[-1]) == (0, "other processes are at 1")
    assert second == f"no report yet: jaxpaint report {file} -o {out} writes it when all are done"
    assert not out.exists()


@pytest.mark.slow
def test_training_on_what_is_scored_is_told(run, command, files, train, tmp_path) -> None:
    same = [str(part).replace(str(train), str(files / f"{TASK}.jsonl")) for part in command]
    status, _, err = run(*same, "--store", tmp_path / "s.sqlite")
    assert status == 0
    assert f"{TASK}: 8 of 8 training examples are among the scored documents" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--epochs", "0"], "--epochs is 0; expected 1 or more"),
        (["--epochs", "10000", "--batch-size", "65536"], "with 20 training examples that is 655,360,000 rows"),
        (["--learning-rate", "nan"], "--learning-rate: nan is not a finite number"),
        (["--limit-train", "-1"], "--limit-train is -1; expected 1 or more"),
        (["--training-seed", "-1"], "--training-seed is -1; expected 0 or more"),
        (["--strategies", "skipp"], "did you mean skip"),
        (["--strategies", ","], "--starts is of strategies with a start layer"),
        (["--starts", "4"], "4"),
        (["--tasks", ","], "a study needs tasks"),
        (["--data", f"{TASK}:nowhere=FILE"], "has no split 'nowhere'"),
        (["--store", "FOLDER"], "is a folder"),
    ],
)
def test_mistakes_are_one_line(refused, command, train, tmp_path, options, told) -> None:
    options = [option.replace("FILE", str(train)).replace("FOLDER", str(tmp_path)) for option in options]
    refused(*command, "--store", tmp_path / "s.sqlite", *options, expected=(told,))
    assert not (tmp_path / "s.sqlite").exists()


def test_what_is_missing_is_told_before_anything_is_stored(refused, store, files, tmp_path) -> None:
    file = tmp_path / "s.sqlite"
    data = ("--data", f"{TASK}={files / TASK}.jsonl")
    base = ("finetune", "--model", store, "--tasks", TASK, *data, "--store", file)
    refused(*base, expected=("there is no plan to fine-tune; give --strategies skip",))
    refused(*base, "--strategies", "skip", expected=("no training documents here", f"{TASK}:train=FILE"))
    assert not file.exists()

"""jaxpaint glue: what lands in the store and the report, what is not done twice, and mistakes told in a line."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jaxpaint.models import checkpoint
from tests.helpers.tiny_glue import pairs, tiny_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TASKS = ("rte", "mrpc")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """--data options: 60 and 20 pairs a task."""
    folder, options = tmp_path_factory.mktemp("data"), []
    for number, task in enumerate(TASKS):
        for split, seed, size in (("train", 0, 60), ("validation", 1, 20)):
            examples = pairs(10 * number + seed, size)
            file = folder / f"{task}_{split}.jsonl"
            rows = [
                {"sentence1": first, "sentence2": second, "label": int(label)}
                for (first, second), label in zip(examples.texts, examples.labels, strict=True)
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            options += ["--data", f"{task}:{split}={file}"]
    return options


def finished(store: Path) -> dict[tuple[str, str], float]:
    """Scores by task and plan."""
    query = "SELECT task, plan, value FROM results WHERE metric = 'score'"
    with closing(sqlite3.connect(store)) as connection:
        return {(task, plan): value for task, plan, value in connection.execute(query)}


@pytest.mark.slow
def test_frozen_and_then_fine_tuned_in_one_store_and_report(run, bert, data, tmp_path) -> None:
    store, out = tmp_path / "glue.sqlite", tmp_path / "report"
    base = ["glue", "--model", bert, "--dtype", "float32", "--store", store, "--training-seeds", 1, "--max-length", 16]
    frozen = [*base, *data, "--tasks", "rte,mrpc", "--frozen", "--strategies", "skip,looped-parallel"]
    status, text, err = run(*frozen)
    assert (status, err) == (0, "")
    plans = {"0-4", "0", "0 1 4", "0 {1-4}*3", "0 1 {2 3}*3 4"}
    assert text.startswith(f"{store}: {len(plans)} plans on 2 tasks; {2 * len(plans)} results in ")
    before = finished(store)
    assert {task for task, _ in before} == set(TASKS)
    assert {plan for _, plan in before} == plans
    assert len(before) == 2 * len(plans)
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT min(seconds) > 0 FROM cells").fetchone() == (1,)
    assert run(*frozen)[1] == f"{store}: {len(plans)} plans on 2 tasks; there was nothing to compute\n"

    tuned = [*base, *data[:4], "--tasks", "rte", "--epochs", 1, "--strategies", "skip", "--starts", 1, "--limit", 12]
    status, text, err = run(*tuned, "--report", out)
    assert (status, err) == (0, "")
    assert "2 plans on 1 task; 2 results in " in text
    with closing(sqlite3.connect(store)) as connection:
        kinds = [json.loads(row[0])["frozen"] for row in connection.execute("SELECT settings FROM tasks ORDER BY id")]
    assert kinds == [True, True, False]

    page = (out / "report.html").read_text()
    for heading in ("GLUE frozen", "GLUE fine-tuned", "All strategies, frozen", "All strategies, fine-tuned"):
        assert heading in page
    assert "eight questions" not in page, "of which GLUE answers none"
    (table,) = [file for file in out.rglob("strategies.csv") if "frozen" in file.parent.name]
    with table.open() as opened:
        rows = {(row["strategy"], row["task"], row["affected layers"]): row for row in csv.DictReader(opened)}
    for affected, plan in (("4", "0"), ("2", "0 1 4")):
        of_tasks = [float(rows["skip", task, affected]["score"]) for task in TASKS]
        assert of_tasks == pytest.approx([before[task, plan] for task in TASKS])
        average = rows["skip", "average", affected]
        assert float(average["score"]) == pytest.approx(sum(of_tasks) / 2)
        assert float(average["low"]) <= float(average["score"]) <= float(average["high"])
    figures = {file.name for file in (out / "figures").rglob("*frozen*/*.pdf")}
    assert figures == {
        "figure-04-glue-skip.pdf",
        "figure-09-glue-looped-parallel.pdf",
        "figure-glue-all-strategies.pdf",
        "figure-plans-score-against-cost.pdf",
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tasks", "rtee"], "GLUE has no task 'rtee'; did you mean rte?"),
        (["--tasks", "cola"], "--data rte: rte is not among --tasks cola"),
        (["--tasks", "rte,mrpc", "--data", "rte:test=FILE"], "rte is read from the splits train and validation"),
        (["--tasks", "rte,mrpc", "--data", "rte=FILE"], "gives the 'validation' split of rte twice"),
        (["--tasks", "rte,mrpc,wnli", "--data", "wnli:train=FILE", "--data", "wnli=FILE"], "is given for both splits"),
        (["--tasks", "rte,mrpc,wnli", "--data", "wnli:train=FOLDER"], "is a folder; give a file"),
        (["--tasks", "rte,mrpc", "--strategies", "skipp"], "did you mean skip"),
        (["--tasks", "rte,mrpc", "--seeds", "3"], "--seeds is of strategy random"),
        (["--tasks", "rte,mrpc", "--training-seeds", "none"], "--training-seeds: 'none' is not a number or a range"),
        (["--tasks", ","], "--tasks names none; leave it out for the paper's, cola,mrpc,"),
        (["--tasks", "rte,mrpc", "--max-length", "64"], "max_length is 64, more than the model's 40 positions"),
        (["--tasks", "rte,mrpc", "--max-length", "4"], "max_length is 4; rte takes 5 or more"),
        (["--tasks", "rte,mrpc", "--max-length", "4", "--frozen"], "max_length is 4; rte takes 5 or more"),
        (["--tasks", "rte,mrpc", "--epochs", "0"], "--epochs is 0; expected 1 or more"),
        (
            ["--tasks", "rte,mrpc", "--max-length", "16", "--epochs", "10000", "--batch-size", "65536"],
            "that is 655,360,000 rows; expected",
        ),
        (["--tasks", "rte,mrpc", "--learning-rate", "-1"], "--learning-rate is -1.0; expected a number above 0"),
        (["--tasks", "rte,mrpc", "--starts", "4", "--strategies", "skip", "--limit-train", "4"], "4"),
    ],
)
def test_mistakes_are_one_line(run, bert, data, tmp_path, monkeypatch, options, told) -> None:
    monkeypatch.setattr(checkpoint, "restore", lambda *arguments, **options: pytest.fail("weights were read"))
    file = tmp_path / "more.jsonl"
    file.write_text('{"sentence1": "a", "sentence2": "b", "label": 0}\n')
    options = [option.replace("FILE", str(file)).replace("FOLDER", str(tmp_path)) for option in options]
    status, out, err = run("glue", "--model", bert, "--store", tmp_path / "s.sqlite", *data, *options)
    assert (status, out) == (2, "")
    assert told in err
    assert err.startswith("jaxpaint: error: ")
    assert err.count("\n") == 1


def test_a_decoder_is_told_before_anything_is_stored(run, store, data, tmp_path) -> None:
    file = tmp_path / "s.sqlite"
    status, out, err = run("glue", "--model", store, "--store", file, *data, "--tasks", "rte,mrpc", "--frozen")
    assert (status, out) == (2, "")
    assert "this llama checkpoint has no pooler" in err
    assert not file.exists()


@pytest.mark.slow
def test_results_on_other_training_examples_are_shown_apart(run, bert, data, tmp_path) -> None:
    """A trial with few examples in the same store; no task counts twice in an average."""
    store, out = tmp_path / "glue.sqlite", tmp_path / "report"
    base = ["glue", "--model", bert, "--store", store, *data, "--frozen", "--training-seeds", 1, "--max-length", 16]
    assert run(*base, "--tasks", "rte,mrpc", "--strategies", "skip", "--limit-train", 8)[0] == 0
    trial = finished(store)
    assert run(*base, "--tasks", "rte,mrpc", "--strategies", "skip", "--report", out)[0] == 0
    folders = sorted((out / "tables").iterdir(), key=lambda folder: folder.name)
    assert [folder.name[:2] for folder in folders] == ["1-", "2-"]
    for folder in folders:
        with (folder / "full-model.csv").open() as opened:
            assert sorted(row["task"] for row in csv.DictReader(opened)) == sorted(TASKS)
    with (folders[1] / "full-model.csv").open() as opened:
        shown = {row["task"]: float(row["full model"]) for row in csv.DictReader(opened)}
    assert shown == pytest.approx({task: trial[task, "0-4"] for task in TASKS})
    page = (out / "report.html").read_text()
    assert "GLUE frozen (1)" in page
    assert "GLUE frozen (2)" in page
    assert "batch size 32" in page
    assert "(paper: Figure A.9). All strategies, frozen" in page
    assert "20 examples" in page
    for of_language_models in ("Normalised score", "BOS token", "0-shot", "eight questions", "Device time"):
        assert of_language_models.lower() not in page.lower()


def test_what_other_processes_are_at(run, bert, data, tmp_path) -> None:
    from jaxpaint.training.checkpoints import claimed

    store, out, folders = tmp_path / "glue.sqlite", tmp_path / "report", []

    @contextmanager
    def recorded(folder: Path) -> Iterator[bool]:
        folders.append(folder)
        with claimed(folder):
            yield False  # as where another process is at it

    base = ["glue", "--model", bert, "--store", store, *data[:4], "--tasks", "rte", "--max-length", 16, "--epochs", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxpaint.studies.trained.claimed", recorded)
        status, text, err = run(*base, "--limit-train", 8, "--training-seeds", 1, "--report", out)
    assert (status, err, len(folders)) == (0, "", 1)
    first, second = text.splitlines()
    assert first.startswith(f"{store}: 1 plan on 1 task; 0 results in ")
    assert first.endswith("; other processes are at 1")
    assert second == f"no report yet: jaxpaint report {store} -o {out} writes it when all are done"
    assert not out.exists()


@pytest.mark.slow
def test_a_report_without_the_full_model_names_this_command(run, bert, data, tmp_path) -> None:
    store = tmp_path / "glue.sqlite"
    base = ["glue", "--model", bert, "--store", store, *data, "--frozen", "--training-seeds", 1, "--max-length", 16]
    assert run(*base, "--tasks", "rte,mrpc", "--limit-train", 8)[0] == 0
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE cells SET status = 'running'")
        connection.execute("DELETE FROM metrics")
        connection.execute("DELETE FROM checksums")  # as though it had been ended before
    status, _, err = run("report", store, "-o", tmp_path / "report")
    assert status == 2
    assert "run `jaxpaint glue --model" in err


@pytest.mark.parametrize(
    ("kept", "more"), [(True, ()), pytest.param(False, ("--no-document-texts",), marks=pytest.mark.slow)]
)
def test_examples_are_kept_as_people_read_them(run, bert, data, tmp_path, kept, more) -> None:
    store, out = tmp_path / "glue.sqlite", tmp_path / "report"
    words = ["glue", "--model", bert, "--dtype", "float32", "--store", store, "--training-seeds", 1, "--max-length", 16]
    words += [*data[:4], "--tasks", "rte", "--frozen", "--strategies", "skip,looped-parallel", "--report", out, *more]
    status, _, err = run(*words)
    assert status == 0, err
    examples = pairs(1, 20)
    with closing(sqlite3.connect(store)) as connection:
        texts = connection.execute("SELECT question, answer FROM document_texts ORDER BY document").fetchall()
    expected = [
        ("\n".join(pair), ("entailment", "not_entailment")[label])
        for pair, label in zip(examples.texts, examples.labels, strict=True)
    ]
    assert texts == (expected if kept else [])
    with (out / "tables" / "flipped.csv").open() as file:
        flipped = list(csv.DictReader(file))
    assert flipped
    assert all(row["question"] == (expected[int(row["document"])][0] if kept else "") for row in flipped)

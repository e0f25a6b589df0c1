"""Thirty kills at random moments of all commands that keep something: the same command again has the same result."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from convert import convert
from tests.helpers.processes import start
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_glue import pairs, tiny_store
from tests.helpers.tiny_results import make_store
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.slow

SEED = 20
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT}
# Fine-tuning keeps a checkpoint after every step, so that kills come after some.
COMMAND = """
from jaxpaint.training import trainer
trainer.CHECKPOINT_SECONDS = 0.0
from jaxpaint.cli import script
script()
"""


class Place:
    """A tiny decoder and encoder with data, and the command among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = make_folder(folder / "model")
        self.decoder = convert(self.source, folder / "decoder")
        self.encoder = tiny_store(folder / "bert")
        self.tasks = ",".join(make_task(folder / "tasks", name) for name in ("tiny_choice", "tiny_text"))
        self.trained = make_task(folder / "trained", "tiny_choice", training_split="train")
        self.results = make_store(folder / "results.sqlite")
        for split, examples in (("train", pairs(0, 96)), ("validation", pairs(1, 24))):
            lines = [
                json.dumps({"sentence1": first, "sentence2": second, "label": int(label)})
                for (first, second), label in zip(examples.texts, examples.labels, strict=True)
            ]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    def start(self, arguments: list[object]) -> subprocess.Popen[str]:
        return start(COMMAND, self.folder, *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("kills"))


def stored(path: Path) -> Any:
    """All numbers of a results store, exactly."""
    queries = (
        "SELECT plan, task, settings, metric, filter, value, stderr, documents, status FROM results "
        "ORDER BY 1, 2, 3, 4, 5",
        "SELECT p.text, a.name, a.value FROM analyses AS a JOIN plans AS p ON p.id = a.plan ORDER BY 1, 2",
        "SELECT count(*) FROM claims",
    )
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(query).fetchall() for query in queries]


def files(folder: Path) -> Any:
    """Every file's bytes, without those that tell when and where they were made."""
    dated = ("_", "manifest.json", "commit_success.txt")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pdf" and not file.name.startswith(dated)
    }


def evaluated(path: Path) -> Any:
    found = json.loads(path.read_text())
    return found["results"], found["n-samples"]


def arguments(place: Place, kind: str, out: Path) -> list[object]:
    study = ["--dtype", "float32", "--strategies", "skip", "--starts", 1, "--store", out]
    glue = ["glue", "--model", place.encoder, "--tasks", "mrpc", *study]
    glue += [f"--data=mrpc:{split}={place.folder / split}.jsonl" for split in ("train", "validation")]
    analyses = ["--analyses", "similarity", "--analysis-task", place.tasks.split(",")[1], "--batch-tokens", 128]
    return {
        "convert": ["convert", place.source, out, "--overwrite"],
        "export": ["export", place.decoder, out, "--plan", "0 2-4", "--overwrite"],
        "report": ["report", place.results, "-o", out],
        "eval": ["eval", "--model", place.decoder, "--tasks", place.tasks, "--output", out],
        "study": ["study", "--model", place.decoder, "--tasks", place.tasks, *study, *analyses],
        "finetune": ["finetune", "--model", place.decoder, "--tasks", place.trained, *study, "--batch-size", 2],
        "glue": [*glue, "--training-seeds", 1, "--epochs", 2, "--batch-size", 16, "--max-length", 20],
        "frozen": [*glue, "--frozen", "--training-seeds", 1, "--max-length", 20],
    }[kind]


KINDS: dict[str, tuple[int, str, Callable[[Path], Any]]] = {
    "convert": (4, "out", files),
    "export": (4, "out", files),
    "report": (4, "out", files),
    "eval": (2, "out.json", evaluated),
    "study": (5, "out.sqlite", stored),
    "finetune": (4, "out.sqlite", stored),
    "glue": (5, "out.sqlite", stored),
    "frozen": (2, "out.sqlite", stored),
}


def test_there_are_thirty() -> None:
    assert sum(kills for kills, *_ in KINDS.values()) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_run_again(place: Place, kind: str, tmp_path: Path) -> None:
    kills, name, read = KINDS[kind]
    print(f"moments of seed {SEED} {kind}")
    moments = random.Random(f"{SEED} {kind}")
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "disturbed").mkdir()
    started = time.monotonic()
    process = place.start(arguments(place, kind, tmp_path / "undisturbed" / name))
    assert process.wait(timeout=300) == 0, process.communicate()[0]
    seconds = time.monotonic() - started
    again = arguments(place, kind, tmp_path / "disturbed" / name)
    told = []
    for _ in range(kills):
        process, signum, moment = place.start(again), moments.choice(SIGNALS), moments.uniform(0.2, 1) * seconds
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        process.send_signal(signum)
        text = process.communicate(timeout=120)[0]
        told.append((signum.name, round(moment, 2), process.returncode))
        print(*told[-1])
        assert process.returncode in {0, *ENDED}, text
    process = place.start(again)
    assert process.wait(timeout=300) == 0, (told, process.communicate()[0])
    assert read(tmp_path / "disturbed" / name) == read(tmp_path / "undisturbed" / name), told
    left = {file.name for file in (tmp_path / "disturbed").iterdir()}
    assert left == {file.name for file in (tmp_path / "undisturbed").iterdir()}, told
